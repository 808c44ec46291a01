"""Publishing: rows of the outbox to Kafka, in their order, each acknowledged by all replicas in sync.

The producer is idempotent, so what it retries is neither doubled nor reordered. An outage of the brokers
is waited out for as long as the caller wishes; it is no message's fault. What the brokers refuse for
good raises `Refused`, and the caller must not save its cursor.
"""

import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from relay.metrics import OUTAGES
from runtime.health import Health

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")

# How often a waiting flush lets the caller renew its lease and look for a stop.
FLUSH_STEP_S = 0.5


class Refused(Exception):
    """The brokers will not take a message as it is."""

    def __init__(self, topic: str, key: str, reason: str) -> None:
        super().__init__(f"the broker refused a message of key {key!r} for {topic!r}: {reason}")
        self.topic = topic
        self.key = key
        self.reason = reason


class Abandoned(Exception):
    """The caller gave up waiting; what was not acknowledged will be published again."""


class Publisher:
    """One producer. `enqueue` never waits for the brokers, `flush` waits for every acknowledgement."""

    def __init__(self, kafka: dict[str, Any], health: Health, *, topic_prefix: str = "") -> None:
        self._health = health
        self._prefix = topic_prefix
        self._refused: Refused | None = None
        self._producer = Producer(
            producer_properties(kafka) | {"error_cb": self._on_error, "logger": _client_log}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever is still queued has no saved cursor and belongs to the next owner of the shard.
        self._producer.purge()
        self._producer.close()

    def enqueue(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Hand rows to the producer, which begins to send them at once."""
        produce, prefix = self._producer.produce, self._prefix
        for _, topic, key, value, headers, _ in rows:
            try:
                produce(prefix + topic, value, key, headers=headers, on_delivery=self._on_delivery)
            except BufferError:
                self._make_room()
                produce(prefix + topic, value, key, headers=headers, on_delivery=self._on_delivery)

    def flush(self, keep_waiting: Callable[[], bool]) -> None:
        """Wait until all is acknowledged; asks `keep_waiting` about twice a second.

        Raises `Refused`, or `Abandoned` once `keep_waiting` says no.
        """
        while self._producer.flush(FLUSH_STEP_S):
            if not keep_waiting():
                raise Abandoned
        if self._refused:
            raise self._refused
        self._health.well("kafka")

    def _make_room(self) -> None:
        """The queue is full: wait until some of it is acknowledged."""
        self._producer.poll(FLUSH_STEP_S)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error and self._refused is None:
            key = (message.key() or b"").decode(errors="replace")
            self._refused = Refused(message.topic() or "?", key, error.str())

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._refused = self._refused or Refused("*", "*", error.str())
        if self._health.unwell("kafka", error.str()):
            OUTAGES.inc()
            _log.warning("kafka is away; waiting for it", reason=error.str())


def producer_properties(kafka: dict[str, Any]) -> dict[str, Any]:
    """Return the producer's configuration: idempotent, patient, and partitioning as Java does."""
    return {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "message.timeout.ms": 0,  # an outage is waited out, however long
        "delivery.report.only.error": True,  # a callback for each success would halve the rate
        "linger.ms": 0.5,
        "queue.buffering.max.messages": 200_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        **kafka,
    }


def is_kafka_error(error: BaseException) -> bool:
    return isinstance(error, KafkaException | Refused)
