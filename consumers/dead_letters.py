"""Dead letters: what can never succeed is kept whole, shown, and decided by a person.

    OPEN ──retry, applied──► RETRIED
      └──discard──────────► DISCARDED

A message is set aside in the transaction that commits the rest of its batch, so it is never both
applied and a dead letter. Redelivered poison is the same dead letter.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from consumers.records import Record
from consumers.tables import dead_letter

REASON_LENGTH_MAX = 1_000
LIST_MAX = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside, with what was decided about it."""

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

    code = "NO_SUCH_DEAD_LETTER"

    def __init__(self, dead_letter_id: int) -> None:
        super().__init__(f"there is no open dead letter {dead_letter_id}")
        self.dead_letter_id = dead_letter_id


def keep(
    connection: Connection, group: str, letters: Iterable[tuple[Record, str]], *, attempts: int = 1
) -> None:
    """Set records aside, each with its reason."""
    rows = [
        {
            "group_id": group,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": record.key,
            "value": record.value,
            "headers": _storable(record.headers),
            "reason": reason.replace("\0", "?")[:REASON_LENGTH_MAX],
            "attempts": attempts,
        }
        for record, reason in letters
    ]
    if rows:
        connection.execute(insert(dead_letter).values(rows).on_conflict_do_nothing())


def open_letters(connection: Connection, *, limit: int = LIST_MAX) -> list[DeadLetter]:
    """Return the open ones, oldest first."""
    chosen = select(dead_letter).where(dead_letter.c.state == "OPEN")
    return [
        _dead_letter(row)
        for row in connection.execute(chosen.order_by(dead_letter.c.id).limit(limit))
    ]


def find(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Return one, open or decided; raises `NoSuchDeadLetter`."""
    chosen = select(dead_letter).where(dead_letter.c.id == dead_letter_id)
    if (row := connection.execute(chosen).one_or_none()) is None:
        raise NoSuchDeadLetter(dead_letter_id)
    return _dead_letter(row)


def lock_open(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Lock an open one for a decision, until the transaction ends; raises `NoSuchDeadLetter`."""
    chosen = (
        select(dead_letter)
        .where(dead_letter.c.id == dead_letter_id, dead_letter.c.state == "OPEN")
        .with_for_update()
    )
    if (row := connection.execute(chosen).one_or_none()) is None:
        raise NoSuchDeadLetter(dead_letter_id)
    return _dead_letter(row)


def decide(connection: Connection, letter: DeadLetter, state: str) -> None:
    """Record that a locked one was RETRIED or DISCARDED."""
    connection.execute(
        update(dead_letter)
        .where(dead_letter.c.id == letter.id)
        .values(state=state, decided_at=func.now())
    )


def _storable(headers: dict[str, str]) -> dict[str, str]:
    """Postgres' jsonb holds no NUL; a sender's header may."""
    return json.loads(json.dumps(headers).replace("\\u0000", "?"))  # type: ignore[no-any-return]


def _dead_letter(row: Row[tuple[object, ...]]) -> DeadLetter:
    record = Record(row.topic, row.partition, row.offset, row.key, row.value, row.headers)
    return DeadLetter(
        row.id,
        row.group_id,
        record,
        row.reason,
        row.attempts,
        row.state,
        row.created_at,
        row.decided_at,
    )
