"""Handling a batch: one transaction for all of it, and no message that stops the others.

    batch ──► decode ──► apply ──► commit
                │          ├── outage, race ──► raised: the same batch again, later
                │          └── anything else ─► bisected, down to the message that causes it,
                └── poison ──► dead letter ◄─── which is tried a bounded number of times

Each half keeps the order of the batch, so bisection never lets a message overtake another. A message
becomes a dead letter only for an error that a message can cause: a database that is down, read-only,
slow, or not yet migrated is waited for.
"""

from collections.abc import Mapping, Sequence
from traceback import format_exception
from typing import Protocol, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from consumers import dead_letters
from consumers.dead_letters import NoFreeId
from consumers.metrics import BISECTED, DEAD_LETTERS
from domain.messages import PoisonMessage
from domain.reservations.store import StaleVersion
from domain.rooms.store import AllocationRace
from innbox_process.database import is_cancelled, is_conflict, is_outage, sqlstate
from innbox_process.records import Record
from outbox import UnknownTopic

_log = structlog.get_logger(__name__)

Decoded = TypeVar("Decoded")

# The classes of SQLSTATE that a message can cause: data that does not fit, a constraint, a limit, a
# trigger's veto, and Postgres' internal errors. All others affect every message alike.
_CAUSED_BY_A_MESSAGE = {"22", "23", "54", "P0", "XX"}


class Handler(Protocol[Decoded]):
    """What a consumer does with its messages; it never begins, commits or rolls back."""

    @property
    def group(self) -> str: ...
    @property
    def topics(self) -> tuple[str, ...]: ...

    def decode(self, record: Record) -> Decoded:
        """Read a record; raises `PoisonMessage`."""

    def apply(self, connection: Connection, messages: Sequence[Decoded]) -> Mapping[UUID, str]:
        """Apply messages in order; returns those with a problem for an operator, by message id."""

    def committed(self, messages: Sequence[Decoded]) -> None:
        """Called when the transaction is durable."""


def handle(
    engine: Engine, handler: Handler[Decoded], records: Sequence[Record], *, attempts_max: int
) -> None:
    """Apply records or keep them as dead letters; on return each is one or the other, durably.

    Raises only transient errors (see `is_transient`): then none of the remaining records was applied, and
    the same records may be handled again.
    """
    attempts = 0
    while records:
        try:
            _apply(engine, handler, records)
        except Exception as error:  # any error that a message causes must end at that message
            # Less work may fit into the time that one batch has exceeded; a single message always does.
            if len(records) > 1 and (is_cancelled(error) or not is_transient(error)):
                BISECTED.labels(handler.group).inc()
                middle = len(records) // 2
                for half in (records[:middle], records[middle:]):
                    handle(engine, handler, half, attempts_max=attempts_max)
                return

            if is_transient(error):
                raise
            attempts += 1
            if attempts < attempts_max:
                continue
            cause = (error.orig if isinstance(error, DBAPIError) else None) or error
            letter = (records[0], f"{type(cause).__name__}: {cause}")
            with engine.begin() as connection:
                kept = dead_letters.keep(connection, handler.group, [letter], attempts=attempts)
            _report(handler.group, kept, error)
        return


def retry_dead_letter(
    engine: Engine, handlers: Mapping[str, Handler[Decoded]], dead_letter_id: int
) -> None:
    """Apply a dead letter's message, in one transaction with the decision.

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
    """The message was tried again and was refused again."""


def is_transient(error: BaseException) -> bool:
    """Return whether the error may pass by itself or by an operator's action; no message causes it."""
    if is_race(error) or is_outage(error):
        return True
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        return error.connection_invalidated or bool(state and state[:2] not in _CAUSED_BY_A_MESSAGE)
    # No topic yet, so no message can be answered; no free id, so no dead letter can be kept.
    return isinstance(error, UnknownTopic | NoFreeId)


def is_race(error: BaseException) -> bool:
    """Return whether another transaction was faster: run again at once, this one succeeds."""
    return is_conflict(error) or isinstance(error, AllocationRace | StaleVersion)


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
            (record, problem)
            for record in records
            if (problem := problems.get(record.message_id)) is not None
        ]
        kept = dead_letters.keep(connection, handler.group, letters)
    _report(handler.group, kept)
    handler.committed(messages)


def _report(
    group: str, letters: Sequence[dead_letters.Kept], error: Exception | None = None
) -> None:
    for letter in letters:
        log = _log.bind(
            id=letter.id,
            group=group,
            topic=letter.record.topic,
            partition=letter.record.partition,
            offset=letter.record.offset,
            reason=letter.reason,
        )
        if letter.is_new:
            DEAD_LETTERS.labels(group).inc()
            log.error("dead letter", trace="".join(format_exception(error)) if error else None)
        else:
            log.warning("known dead letter redelivered", state=letter.state)
