"""Handling a batch: one transaction for all of it, and no message that stops the others.

    batch ──► decode ──► apply ──► commit
                │          ├── outage, conflict ──► raised: the same batch again, later
                │          └── anything else ─────► cut in two, down to the one that causes it,
                └── poison ──► dead letter ◄─────── which is tried a bounded number of times

The order of a batch is kept in every part of it, so cutting never lets a message overtake another.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine

from consumers import dead_letters
from consumers.metrics import BISECTED, DEAD_LETTERS
from consumers.records import Record
from domain.messages import PoisonMessage
from domain.reservations.store import ReservationMoved
from domain.rooms.store import AllocatedMeanwhile
from runtime.database import is_conflict, is_outage

_log = structlog.get_logger(__name__)

Decoded = TypeVar("Decoded")


class Handler(Protocol[Decoded]):
    """What a consumer does with its messages; it never begins, commits or rolls back."""

    @property
    def group(self) -> str: ...
    @property
    def topics(self) -> tuple[str, ...]: ...

    def decode(self, record: Record) -> Decoded:
        """Read a record; raises `PoisonMessage`."""

    def apply(self, connection: Connection, messages: Sequence[Decoded]) -> Mapping[UUID, str]:
        """Apply messages in order; returns those that a person must see, by message id."""

    def committed(self, messages: Sequence[Decoded]) -> None:
        """Hear that the transaction is durable."""


def handle(
    engine: Engine, handler: Handler[Decoded], records: Sequence[Record], *, attempts_max: int
) -> None:
    """Apply records or set them aside; on return each is one or the other, durably.

    Raises only what may pass by itself (see `is_passing`): then nothing of what is left was applied,
    and the same records may be handled again.
    """
    try:
        _apply(engine, handler, records)
    except Exception as error:  # whatever a message can cause must end at that message
        if is_passing(error):
            raise
        if len(records) == 1:
            _try_alone(engine, handler, records[0], error, attempts_max)
            return

        BISECTED.labels(handler.group).inc()
        middle = len(records) // 2
        for part in (records[:middle], records[middle:]):
            handle(engine, handler, part, attempts_max=attempts_max)


def retry_dead_letter(
    engine: Engine, handlers: Mapping[str, Handler[Decoded]], dead_letter_id: int
) -> None:
    """Apply a dead letter's message after all, in one transaction with the decision.

    Raises `NoSuchDeadLetter`, `PoisonMessage`, or whatever the message causes: then it stays open.
    """
    with engine.begin() as connection:
        letter = dead_letters.lock_open(connection, dead_letter_id)
        handler = handlers[letter.group]
        message = handler.decode(letter.record)
        if problems := handler.apply(connection, [message]):
            raise StillRefused("; ".join(problems.values()))
        dead_letters.decide(connection, letter, "RETRIED")
    handler.committed([message])


class StillRefused(Exception):
    """The message was tried again and needs a person still."""


def is_passing(error: BaseException) -> bool:
    """Tell what may pass by itself: an outage, or another transaction that was first."""
    return (
        is_outage(error)
        or is_conflict(error)
        or isinstance(error, AllocatedMeanwhile | ReservationMoved)
    )


def _apply(engine: Engine, handler: Handler[Decoded], records: Sequence[Record]) -> None:
    messages: list[Decoded] = []
    letters: list[tuple[Record, str]] = []
    for record in records:
        try:
            messages.append(handler.decode(record))
        except PoisonMessage as poison:
            letters.append((record, poison.reason))

    with engine.begin() as connection:
        problems = handler.apply(connection, messages) if messages else {}
        letters += [
            (record, problems[record.message_id])
            for record in records
            if record.message_id in problems
        ]
        dead_letters.keep(connection, handler.group, letters)
    _report(handler.group, letters)
    handler.committed(messages)


def _try_alone(
    engine: Engine, handler: Handler[Decoded], record: Record, error: Exception, attempts_max: int
) -> None:
    """Give one message the rest of its tries, then set it aside."""
    for _ in range(attempts_max - 1):
        try:
            _apply(engine, handler, [record])
        except Exception as again:  # likewise: it must end at this message
            if is_passing(again):
                raise
            error = again
        else:
            return

    reason = f"{type(error).__name__}: {error}"
    with engine.begin() as connection:
        dead_letters.keep(connection, handler.group, [(record, reason)], attempts=attempts_max)
    _report(handler.group, [(record, reason)])


def _report(group: str, letters: Sequence[tuple[Record, str]]) -> None:
    for record, reason in letters:
        DEAD_LETTERS.labels(group).inc()
        _log.error(
            "dead letter",
            group=group,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
