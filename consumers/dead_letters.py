"""Dead letters: what can never succeed is kept whole, shown, and decided by a person.

    OPEN ──retry, applied──► RETRIED
      └──discard──────────► DISCARDED

A message is set aside in the transaction that commits the rest of its batch, so it is never both
applied and a dead letter. Redelivered poison is the same dead letter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from consumers.records import Record
from consumers.tables import dead_letter

REASON_LENGTH_MAX = 1_000
LIST_MAX = 1_000

# A record, and why it is set aside.
Letter = tuple[Record, str]


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
    connection: Connection, group: str, letters: Sequence[Letter], *, attempts: int = 1
) -> list[Letter]:
    """Set records aside, each with its reason; returns those that were not there before."""
    rows = [
        {
            "group_id": group,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": record.key,
            "value": record.value,
            "headers": {_storable(name): _storable(text) for name, text in record.headers.items()},
            "reason": _storable(reason)[:REASON_LENGTH_MAX],
            "attempts": attempts,
        }
        for record, reason in letters
    ]
    if not rows:
        return []
    table = dead_letter.c
    place = (table.topic, table.partition, table.offset)
    kept = connection.execute(insert(dead_letter).on_conflict_do_nothing().returning(*place), rows)
    new = {tuple(row) for row in kept}
    return [
        letter
        for letter in letters
        if (letter[0].topic, letter[0].partition, letter[0].offset) in new
    ]


def open_letters(
    connection: Connection, *, group: str | None = None, limit: int = LIST_MAX
) -> list[DeadLetter]:
    """Return the open ones, of one group or of all, oldest first."""
    chosen = select(dead_letter).where(dead_letter.c.state == "OPEN")
    if group is not None:
        chosen = chosen.where(dead_letter.c.group_id == group)
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


def discard(connection: Connection, dead_letter_id: int) -> DeadLetter:
    """Decide that an open one is never to be applied; raises `NoSuchDeadLetter`."""
    letter = lock_open(connection, dead_letter_id)
    decide(connection, letter, "DISCARDED")
    return letter


def decide(connection: Connection, letter: DeadLetter, state: str) -> None:
    """Record that a locked one was RETRIED or DISCARDED."""
    connection.execute(
        update(dead_letter)
        .where(dead_letter.c.id == letter.id)
        .values(state=state, decided_at=func.now())
    )


def _storable(text: str) -> str:
    """Postgres' text holds neither NUL nor half a surrogate pair; a sender's may."""
    return text.replace("\0", "?").encode("utf-8", "replace").decode()


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
