"""The runner: poll, one transaction for the batch, then commit the offsets.

Postgres records what was done; Kafka's offsets are only the position to resume from. So offsets are
committed after the database, a crash in between redelivers the batch, and handlers are idempotent.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, get_ident
from typing import Any

import structlog
from confluent_kafka import Message
from sqlalchemy import Engine, event

from consumers.group import GroupConsumer
from consumers.handling import Handler, handle, is_race, is_transient
from consumers.metrics import BATCHES, HANDLED, RETRIES
from innbox_process.backoff import backoff_s
from innbox_process.errors import first_line
from innbox_process.health import Health
from innbox_process.records import record_of
from runtime.settings import Settings

_log = structlog.get_logger(__name__)

_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.15, 15.0
# A lost race is retried at once; after so many, another transaction holds a lock for long.
_RACES_MAX = 5
_RACE_S_MAX = 0.02


class Runner:
    """Runs one handler as a member of its consumer group, until it is stopped."""

    def __init__(
        self, engine: Engine, handler: Handler[Any], settings: Settings, health: Health, stop: Event
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._settings = settings
        self._health = health
        self._stop = stop
        self._group = GroupConsumer(settings, handler.group, handler.topics, health)

    def run(self) -> None:
        """Handle batches until stopped; then leave the group, so that others take over at once.

        A consumer without a database does not join: it would take partitions from those that can work.
        """
        self._beat_by_transaction()
        self._await_database()
        with self.membership():
            while not self._stop.is_set():
                self._health.beat()
                self.run_once()

    @contextmanager
    def membership(self) -> Iterator[None]:
        """Join the group for the length of a block."""
        self._group.join()
        try:
            yield
        finally:
            self._group.leave()

    def run_once(self) -> int:
        """Handle one batch, waiting briefly for its first message; returns the number of messages."""
        messages = self._group.batch()
        if not messages:
            return 0

        with BATCHES.labels(self._handler.group).time():
            handled = self._handle_patiently(messages)
        self._group.handled(handled)
        HANDLED.labels(self._handler.group).inc(len(handled))
        return len(handled)

    def _handle_patiently(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Handle a batch, waiting out transient errors; returns the messages that were handled.

        Returns none if a stop came first. Messages of a partition that was revoked during a wait are left
        out: its next owner may have read further, and committing an older offset would set it back.
        """
        prefix, attempts_max = self._settings.kafka_prefix, self._settings.poison_attempts
        records = {id(message): record_of(message, prefix) for message in messages}
        attempt = 0
        while not self._stop.is_set():
            batch = [records[id(message)] for message in messages]
            try:
                handle(self._engine, self._handler, batch, attempts_max=attempts_max)
            except Exception as error:
                # A transient error keeps the batch; any other is a broken invariant.
                if not is_transient(error):
                    raise
                self._wait_out(error, attempt)
                messages = self._group.owned(messages)
                attempt += 1
            else:
                self._health.well("database")
                return messages
        return []

    def _wait_out(self, error: Exception, attempt: int) -> None:
        RETRIES.labels(self._handler.group).inc()
        if is_race(error) and attempt < _RACES_MAX:
            self._stop.wait(random.uniform(0, _RACE_S_MAX))  # noqa: S311 - jitter
            return

        seconds = self._report(error, attempt)
        self._engine.dispose()  # connect again: another server may have become the primary
        self._group.rest(seconds, self._stop, self._health.beat)

    def _beat_by_transaction(self) -> None:
        """Count as alive with each transaction: the search for a failing message may take many."""
        loop, beat = get_ident(), self._health.beat

        @event.listens_for(self._engine, "checkout")
        def turned(*_: object) -> None:
            if get_ident() == loop:  # timed jobs run in other threads, even if the loop hangs
                beat()

    def _await_database(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            self._health.beat()
            try:
                self._engine.connect().close()
            except Exception as error:  # likewise
                if not is_transient(error):
                    raise
                self._stop.wait(self._report(error, attempt))
                attempt += 1
            else:
                self._health.well("database")
                return

    def _report(self, error: Exception, attempt: int) -> float:
        """Say why the database is waited for; returns for how long."""
        reason = first_line(error)
        if self._health.unwell("database", reason):
            _log.warning("waiting for the database", reason=reason)
        return backoff_s(attempt, shortest_s=_BACKOFF_S_MIN, longest_s=_BACKOFF_S_MAX)
