"""The runner: poll, one transaction for the batch, then commit the offsets.

Postgres remembers what was done; Kafka's offsets only say where to read on. So offsets are committed
after the database, a crash in between delivers again, and handlers are idempotent.
"""

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from sqlalchemy import Engine

from consumers.handling import Handler, handle, is_passing
from consumers.metrics import BATCHES, HANDLED, RETRIES
from consumers.records import Record, place_of, record_of
from runtime.health import Health
from runtime.settings import Settings

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")

_POLL_S = 0.5
_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.1, 10.0


class Runner:
    """Runs one handler as a member of its consumer group, until asked to stop."""

    def __init__(
        self,
        engine: Engine,
        handler: Handler[Any],
        settings: Settings,
        health: Health,
        stop: Event,
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._settings = settings
        self._health = health
        self._stop = stop
        self._revoked: set[tuple[str, int]] = set()
        self._consumer = Consumer(
            consumer_properties(settings, handler.group)
            | {"error_cb": self._on_error, "logger": _client_log}
        )

    def run(self) -> None:
        """Handle batches until stopped; then leave the group, so that others take over at once."""
        with self.member():
            while not self._stop.is_set():
                self._health.beat()
                self.run_once()

    @contextmanager
    def member(self) -> Iterator[None]:
        """Be a member of the group for the length of a block."""
        self._consumer.subscribe(
            [self._settings.kafka_prefix + topic for topic in self._handler.topics],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        try:
            yield
        finally:
            self._consumer.close()

    def run_once(self) -> int:
        """Handle what has arrived, waiting a moment for the first; returns how many messages."""
        messages = self._batch()
        if not messages:
            return 0

        with BATCHES.labels(self._handler.group).time():
            records = [record_of(message, self._settings.kafka_prefix) for message in messages]
            if not self._handle_patiently(records):
                return 0
            self._commit(messages)
        HANDLED.labels(self._handler.group).inc(len(messages))
        return len(messages)

    def _batch(self) -> list[Message]:
        """Wait for one message, then take what else is there already.

        `consume` with a timeout would wait for the whole of it unless the batch is full.
        """
        self._revoked.clear()
        first = self._consumer.poll(_POLL_S)
        if first is None:
            return []

        rest: list[Message] = []
        if (most := self._settings.batch_size_max - 1) > 0:
            rest = self._consumer.consume(most, self._settings.batch_wait_ms / 1000)
        return [message for message in (first, *rest) if self._is_ours(message)]

    def _is_ours(self, message: Message) -> bool:
        if error := message.error():
            self._on_error(error)
            return False
        topic, partition, _ = place_of(message)
        return (topic, partition) not in self._revoked

    def _handle_patiently(self, records: Sequence[Record]) -> bool:
        """Handle a batch, waiting out outages; False if a stop came first."""
        backoff_s = _BACKOFF_S_MIN
        while not self._stop.is_set():
            try:
                attempts_max = self._settings.poison_attempts
                handle(self._engine, self._handler, records, attempts_max=attempts_max)
            except Exception as error:  # an outage keeps the batch; anything else is a broken rule
                if not is_passing(error):
                    raise
                self._wait_out(error, backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S_MAX)
            else:
                self._health.well("database")
                return True
        return False

    def _wait_out(self, error: Exception, backoff_s: float) -> None:
        """Wait, staying a member of the group: a paused poll delivers nothing and counts as alive."""
        RETRIES.labels(self._handler.group).inc()
        if self._health.unwell("database", str(error).strip()):
            _log.warning("the batch will be tried again", reason=str(error).strip())
        assignment = self._consumer.assignment()
        self._consumer.pause(assignment)
        until = time.monotonic() + backoff_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        while time.monotonic() < until and not self._stop.is_set():
            self._health.beat()
            self._consumer.poll(min(_POLL_S, max(0.0, until - time.monotonic())))
        self._consumer.resume(self._consumer.assignment())

    def _commit(self, messages: Sequence[Message]) -> None:
        places = [place_of(message) for message in messages]
        ends = {(topic, partition): offset + 1 for topic, partition, offset in places}
        offsets = [TopicPartition(*place, end) for place, end in ends.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Delivered again at worst; the next batch commits past it.
            _log.warning("offsets not committed", reason=str(error))

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._health.well("kafka")
        _log.info("partitions assigned", partitions=_names(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Between batches everything is committed; within one, the new owner gets these records.
        self._revoked.update((partition.topic, partition.partition) for partition in partitions)
        _log.info("partitions revoked", partitions=_names(partitions))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise KafkaException(error)
        if self._health.unwell("kafka", error.str()):
            _log.warning("kafka is away; waiting for it", reason=error.str())


def consumer_properties(settings: Settings, group: str) -> dict[str, Any]:
    """Return the configuration of a member that commits by hand and reads only what is committed."""
    session_ms = int(settings.consumer_session_s * 1000)
    return {
        "group.id": settings.kafka_prefix + group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": session_ms // 3,
        "fetch.wait.max.ms": 100,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        **settings.kafka,
    }


def _names(partitions: Sequence[TopicPartition]) -> list[str]:
    return [f"{partition.topic}/{partition.partition}" for partition in partitions]
