"""Replays: messages that the log still has, to be published again; which ones, and how far it is.

    (create) ──► RUNNING ──all done──► DONE
                  │   ▲  └───cancel──► CANCELLED ◄─┐
                  ▼   └─take──┐                    │
                 INTERRUPTED, REFUSED ───cancel────┘

Progress is saved after every acknowledged batch, so a crash repeats that batch at most. The session that
runs a replay holds its advisory lock, and saves on that very session. The lock ends with the session: a
process that was killed blocks no other, and one that has lost the lock can no longer save. A lease would
make an operator wait until it expires. Needs a direct connection, in autocommit (`prepare_session`).

A replay by positions is a mend (`outbox.admin.mending`), and of those one runs at a time in an outbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Connection, TextClause, func, select, text

from outbox.admin.selection import Batch, Extent, Selection, Survey, columns_of, read_selected
from outbox.errors import (
    ForeignReplay,
    MendTaken,
    NoSuchReplay,
    ReplayOver,
    ReplayTaken,
    UnknownTopic,
    ValueTooLarge,
)
from outbox.topics import known_topics


class ReplayState(StrEnum):
    """Where a replay stands; the ways between them are drawn above."""

    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    REFUSED = "REFUSED"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay as it was last read or written.

    `expected` were there at the start; at the end those that are neither sent nor refused are gone with
    the retention.
    """

    id: int
    state: ReplayState
    reason: str | None
    extent: Extent
    to_topic: str | None
    per_second: int
    position: int
    expected: int
    left_out: int
    sent: int
    refused: int
    gone: tuple[UUID, ...]
    started_by: str
    started_at: datetime
    updated_at: datetime

    @property
    def is_mend(self) -> bool:
        return bool(self.extent.selection.positions)

    @property
    def done(self) -> int:
        return self.sent + self.refused


# Two halves of an advisory lock's key; with two, pg_locks shows the second as `objid`.
_KIND = "hashtext('outbox.replay')"

# A runner that died without a word left RUNNING behind; what is not locked does not run.
_STATE = f"""CASE WHEN state = 'RUNNING' AND NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 2 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND classid = {_KIND}::oid AND objid = replay.id::oid
    ) THEN 'INTERRUPTED' ELSE state END"""

# What changes while it runs; a selection may be of a million ids.
_PROGRESS = f"id, {_STATE} AS state, reason, position, sent, refused, gone, updated_at"
_REPLAY = f"""{_PROGRESS}, topics, keys, message_ids, positions, since, until, to_topic, per_second,
    cursors::text, first_position, last_position, first_at, last_at, expected, left_out, started_by,
    started_at"""

INSERT = """
    INSERT INTO outbox.replay (
        topics, keys, message_ids, positions, since, until, to_topic, per_second, cursors, position,
        first_position, last_position, first_at, last_at, expected, left_out, started_by
    )
    VALUES (
        :topics, :keys, CAST(:message_ids AS uuid[]), CAST(:positions AS bigint[]), :since, :until,
        :to_topic, :per_second, CAST(:cursors AS json), :first_position - 1, :first_position,
        :last_position, :first_at, :last_at, :expected, :left_out, :started_by
    )
    RETURNING id
"""
CREATE = text(INSERT)

LOCK = text(f"SELECT pg_try_advisory_lock({_KIND}, :id)")
ID_OF_MENDS = 0  # those of replays begin with 1
IS_MEND = text("SELECT positions <> '{}' FROM outbox.replay WHERE id = :id")

TAKE = text(f"""
    UPDATE outbox.replay
    SET state = 'RUNNING', reason = NULL, updated_at = clock_timestamp(),
        per_second = coalesce(CAST(:per_second AS integer), per_second)
    WHERE id = :id AND state IN ('RUNNING', 'INTERRUPTED', 'REFUSED')
      AND system_identifier = (pg_control_system()).system_identifier
    RETURNING {_REPLAY}
""")

# Done with its last batch, in the same write: no replay that has sent everything can be taken again.
SAVE = text(f"""
    UPDATE outbox.replay
    SET position = :position, sent = sent + :sent, refused = refused + :refused,
        gone = gone || CAST(:gone AS uuid[]),
        state = CASE WHEN :position >= last_position THEN 'DONE' ELSE state END,
        updated_at = clock_timestamp()
    WHERE id = :id AND state = 'RUNNING'
    RETURNING {_PROGRESS}
""")

STOP = text(f"""
    UPDATE outbox.replay SET state = :state, reason = :reason, updated_at = clock_timestamp()
    WHERE id = :id AND state IN ('RUNNING', 'INTERRUPTED', 'REFUSED')
    RETURNING {_REPLAY}
""")

FIND = text(f"SELECT {_REPLAY} FROM outbox.replay WHERE id = :id")
NEWEST = text(f"SELECT {_REPLAY} FROM outbox.replay ORDER BY id DESC LIMIT :limit")


def database_now(connection: Connection) -> datetime:
    """Return the time of the clock that messages are stamped by."""
    return connection.execute(select(func.now())).scalar_one()


def check_target(connection: Connection, to_topic: str, survey: Survey | None = None) -> None:
    """Raise `UnknownTopic`, or `ValueTooLarge` if not all that was found fits into the topic."""
    known = known_topics(connection)
    if to_topic not in known:
        raise UnknownTopic(to_topic, known)
    if survey and survey.value_bytes_max > known[to_topic]:
        raise ValueTooLarge(to_topic, survey.value_bytes_max, known[to_topic])


def create_replay(
    connection: Connection,
    survey: Survey,
    *,
    to_topic: str | None,
    per_second: int,
    started_by: str,
) -> Replay:
    """Record a replay of what a survey has found, which must be something, and take it."""
    settings = {"to_topic": to_topic, "per_second": per_second, "started_by": started_by}
    return record_replay(connection, CREATE, survey, settings)


def record_replay(
    connection: Connection, statement: TextClause, survey: Survey, settings: dict[str, Any]
) -> Replay:
    """Run a statement that has `INSERT` in it, and take the replay whose id it returns."""
    assert survey.extent, "there is something to publish again"
    values = columns_of(survey.extent) | columns_of(survey.extent.selection) | settings
    values |= {"expected": survey.expected, "left_out": survey.left_out}
    return take_replay(connection, connection.execute(statement, values).scalar_one())


def lock_mends(connection: Connection) -> None:
    """Take the right to mend this outbox, for as long as the session lasts; raises `MendTaken`."""
    if not connection.execute(LOCK, {"id": ID_OF_MENDS}).scalar_one():
        raise MendTaken


def take_replay(connection: Connection, replay_id: int, *, per_second: int | None = None) -> Replay:
    """Take the right to run it, for as long as the session lasts; perhaps at another rate.

    Raises `NoSuchReplay`, `ReplayTaken`, `MendTaken`, `ReplayOver` or `ForeignReplay`.
    """
    if connection.execute(IS_MEND, {"id": replay_id}).scalar_one_or_none():
        lock_mends(connection)
    if not connection.execute(LOCK, {"id": replay_id}).scalar_one():
        raise ReplayTaken(replay_id)

    return _written(connection, TAKE, {"id": replay_id, "per_second": per_second})


def read_replay(connection: Connection, replay: Replay, *, limit: int) -> Batch:
    """Read the next messages; an empty batch says nothing of what is behind its position."""
    return read_selected(
        connection, replay.extent, replay.position, to_topic=replay.to_topic, limit=limit
    )


def save_replay(
    connection: Connection,
    replay: Replay,
    position: int,
    *,
    sent: int = 0,
    refused: int = 0,
    gone: Sequence[UUID] = (),
) -> Replay:
    """Record that all up to a position is done with; raises `ReplayOver` if it was cancelled."""
    values = {"id": replay.id, "position": position, "sent": sent, "refused": refused}
    row = connection.execute(SAVE, values | {"gone": list(gone)}).mappings().one_or_none()
    return replace(replay, **_fields(row or _refuse(connection, replay.id)))


def stop_replay(
    connection: Connection, replay_id: int, state: ReplayState, reason: str | None = None
) -> Replay:
    """Leave a replay, INTERRUPTED or REFUSED, or end it, CANCELLED, whichever process runs it.

    A process that runs a cancelled one learns of it when it saves. Raises `NoSuchReplay` or `ReplayOver`.
    """
    return _written(connection, STOP, {"id": replay_id, "state": state, "reason": reason})


def replays(connection: Connection, *, limit: int = 100) -> list[Replay]:
    """Return the newest replays first; one that runs no more and does not say so is INTERRUPTED."""
    return [_replay_of(row) for row in connection.execute(NEWEST, {"limit": limit}).mappings()]


def _written(connection: Connection, statement: TextClause, values: dict[str, Any]) -> Replay:
    row = connection.execute(statement, values).mappings().one_or_none()
    return _replay_of(row or _refuse(connection, values["id"]))


def _replay_of(row: Mapping[Any, Any]) -> Replay:
    values = _fields(row)
    selection = Selection(**{each.name: values.pop(each.name) for each in fields(Selection)})
    bounds = {each.name: values.pop(each.name) for each in fields(Extent) if each.name in values}
    return Replay(**values, extent=Extent(selection, **bounds))


def _fields(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return columns as a replay's fields, or those of what it has, are."""
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    return values | {"state": ReplayState(row["state"])}


def _refuse(connection: Connection, replay_id: int) -> NoReturn:
    row = connection.execute(FIND, {"id": replay_id}).one_or_none()
    if row is None:
        raise NoSuchReplay(replay_id)
    if row.state in {ReplayState.DONE, ReplayState.CANCELLED}:
        raise ReplayOver(replay_id, row.state)
    raise ForeignReplay(replay_id)
