"""Dead letters: a message that can never succeed is kept whole, shown, and decided by an operator.

    OPEN ──retry, applied──► RETRIED
      └──discard──────────► DISCARDED

A message becomes a dead letter in the transaction that commits the rest of its batch, so it is never both
applied and a dead letter.

A dead letter is identified by its group, its location (topic, partition, offset) and its content (key,
value and headers). The same message redelivered is the same dead letter. Another message at the same
location, in a topic that was created again, is another dead letter. The same content at the same
location keeps its decision, since a repeated message means the same: a discarded one is not opened
again, and a retried one is applied. Each redelivery is logged with the id and state, so that nothing is
dropped silently; to apply a discarded message, publish it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, func, select, text, update
from sqlalchemy.exc import IntegrityError

from consumers.tables import DIGEST, SAME_LETTER, dead_letter
from innbox_process.database import is_taken_id
from innbox_process.records import Record

REASON_LENGTH_MAX = 1_000
LIST_MAX = 1_000
# Each is a short statement, and locks of the batch are held meanwhile.
IDS_TRIED_MAX = 1_000

_OPEN = select(dead_letter).where(dead_letter.c.state == "OPEN")

# A record, and the reason.
Letter = tuple[Record, str]

_GIVEN = f"""(
    SELECT *, {DIGEST} AS digest
    FROM unnest(
        CAST(:topics AS text[]), CAST(:partitions AS integer[]), CAST(:offsets AS bigint[]),
        CAST(:keys AS bytea[]), CAST(:values AS bytea[]), CAST(:headers AS jsonb[]),
        CAST(:reasons AS text[])
    ) WITH ORDINALITY AS record (topic, partition, "offset", key, value, headers, reason, number)
) AS given"""

KEEP = text(f"""
    INSERT INTO consumers.dead_letter (
        group_id, topic, partition, "offset", key, value, headers, reason, attempts
    )
    SELECT :group_id, topic, partition, "offset", key, value, headers, reason, :attempts
    FROM {_GIVEN} ORDER BY number
    ON CONFLICT ON CONSTRAINT {SAME_LETTER.name} DO NOTHING
    RETURNING id
""")

# After the other, as a statement of its own: it also sees rows that other transactions kept before.
FIND_KEPT = text(f"""
    SELECT kept.id, kept.state
    FROM {_GIVEN} JOIN consumers.dead_letter AS kept USING (topic, partition, "offset", digest)
    WHERE group_id = :group_id
    ORDER BY number
""")


@dataclass(frozen=True, slots=True)
class Kept:
    """A record, the reason, and the dead letter that it became: a new one, or a known one."""

    record: Record
    reason: str
    id: int
    state: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, with the decision about it."""

    id: int
    group: str
    record: Record
    reason: str
    attempts: int
    state: str
    created_at: datetime
    decided_at: datetime | None


class NoSuchDeadLetter(LookupError):
    """There is no open dead letter of this id."""

    def __init__(self, dead_letter_id: int) -> None:
        super().__init__(f"there is no open dead letter {dead_letter_id}")


class NoFreeId(Exception):
    """The sequence of the dead letters is far behind the table: the next ids are all taken."""

    def __init__(self) -> None:
        super().__init__(
            f"the next {IDS_TRIED_MAX} ids of consumers.dead_letter are taken: a restore has left its "
            "sequence behind; run `innbox outbox rebase`"
        )


def keep(
    connection: Connection, group: str, letters: Sequence[Letter], *, attempts: int = 1
) -> list[Kept]:
    """Keep records as dead letters, each with its reason; returns the dead letters, new or known.

    If the sequence gives an id that is taken, the next ids are tried, within a savepoint. Raises
    `NoFreeId` after `IDS_TRIED_MAX`; the next call goes on from there, as a sequence is never rolled
    back.
    """
    if not letters:
        return []
    values = {"group_id": group, "attempts": attempts, **_columns(letters)}
    for _ in range(IDS_TRIED_MAX):
        try:
            with connection.begin_nested():
                new = set(connection.scalars(KEEP, values))
        except IntegrityError as error:
            if not is_taken_id(error):
                raise
        else:
            found = connection.execute(FIND_KEPT, values).all()
            return [
                Kept(*letter, row.id, row.state, row.id in new)
                for letter, row in zip(letters, found, strict=True)
            ]
    raise NoFreeId


def _columns(letters: Sequence[Letter]) -> dict[str, object]:
    columns: dict[str, object] = {
        f"{name}s": [getattr(record, name) for record, _ in letters]
        for name in ("topic", "partition", "offset", "key", "value")
    }
    headers = [
        {_storable(name): _storable(content) for name, content in record.headers.items()}
        for record, _ in letters
    ]
    columns["headers"] = [msgspec.json.encode(each).decode() for each in headers]
    columns["reasons"] = [_storable(reason)[:REASON_LENGTH_MAX] for _, reason in letters]
    return columns


def open_letters(
    connection: Connection, *, group: str | None = None, limit: int = LIST_MAX
) -> list[DeadLetter]:
    """Return the open dead letters, of one group or of all, oldest first."""
    chosen = _OPEN.order_by(dead_letter.c.id).limit(limit)
    if group is not None:
        chosen = chosen.where(dead_letter.c.group_id == group)
    return [_dead_letter(row) for row in connection.execute(chosen)]


def find(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Return one dead letter, open or decided; raises `NoSuchDeadLetter`."""
    return _one(connection, select(dead_letter), dead_letter_id)


def lock_open(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Lock an open dead letter for a decision, until the transaction ends; raises `NoSuchDeadLetter`."""
    return _one(connection, _OPEN.with_for_update(), dead_letter_id)


def discard(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Decide that an open dead letter is never applied; raises `NoSuchDeadLetter`."""
    letter = lock_open(connection, dead_letter_id)
    decide(connection, letter, "DISCARDED")
    return letter


def decide(connection: Connection, letter: DeadLetter, state: str) -> None:
    """Record that a locked dead letter was RETRIED or DISCARDED."""
    connection.execute(
        update(dead_letter)
        .where(dead_letter.c.id == letter.id)
        .values(state=state, decided_at=func.now())
    )


def _storable(given: str) -> str:
    """Replace what Postgres' text cannot hold: NUL, and half a surrogate pair."""
    return given.replace("\0", "?").encode("utf-8", "replace").decode()


def _one(connection: Connection, chosen: Select[Any], dead_letter_id: int) -> DeadLetter:
    row = connection.execute(chosen.where(dead_letter.c.id == dead_letter_id)).one_or_none()
    if row is None:
        raise NoSuchDeadLetter(dead_letter_id)
    return _dead_letter(row)


def _dead_letter(row: Row[tuple[object, ...]]) -> DeadLetter:
    record = Record(row.topic, row.partition, row.offset, row.key, row.value, row.headers)
    decision = row.state, row.created_at, row.decided_at
    return DeadLetter(row.id, row.group_id, record, row.reason, row.attempts, *decision)
