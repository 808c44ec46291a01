"""Publishing: rows of the outbox to Kafka, in their order, each acknowledged by all replicas in sync.

The producer is idempotent, so what it retries is neither doubled nor reordered. An outage of the brokers
is waited out for as long as the caller wishes; it is no message's fault. What cannot be published as it
is raises `Refused`; the caller must not save its cursor, and nothing behind it in its partition is sent.
"""

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from outbox import decode_headers
from relay.metrics import OUTAGES
from runtime.health import Health

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")

# How often a waiting flush lets the caller look for a stop or a lost lease.
FLUSH_STEP_S = 0.5
_LOOK_S = 0.5
# A first publication, or a change of leaders, may take a second.
_SILENT_S = 2.0


class Refused(Exception):
    """The brokers, or the client on their behalf, will not take a message as it is."""

    def __init__(self, topic: str, key: str, reason: str) -> None:
        super().__init__(f"a message of key {key!r} for {topic!r} was refused: {reason}")
        self.topic = topic
        self.key = key
        self.reason = reason


class Abandoned(Exception):
    """The caller gave up waiting; what was not acknowledged will be published again."""


class Publisher:
    """One producer. `enqueue` hands over, `flush` waits for every acknowledgement.

    After any of its exceptions it is of no more use: another one begins anew at the saved cursor.
    """

    def __init__(self, kafka: dict[str, Any], health: Health, *, topic_prefix: str = "") -> None:
        self._health = health
        self._prefix = topic_prefix
        self._rows: Sequence[tuple[Any, ...]] = ()
        self._refused: Refused | None = None
        self._is_well: bool | None = None  # None: not heard of yet
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
        try:
            self._producer.purge()
            self._producer.close()
        except (KafkaException, SystemError) as fatal:
            # As in `_served`; the error that ended the block, if any, is the one that matters.
            _log.debug("a producer ended badly", reason=str(fatal))

    def enqueue(self, rows: Sequence[tuple[Any, ...]], keep_waiting: Callable[[], bool]) -> None:
        """Hand rows to the producer, which begins to send them at once; waits while it is full."""
        self._rows = rows
        produce, prefix, on_delivery = self._producer.produce, self._prefix, self._on_delivery
        for _, topic, key, value, encoded, _ in rows:
            while True:
                try:
                    headers: Any = decode_headers(encoded)
                    produce(prefix + topic, value, key, headers=headers, on_delivery=on_delivery)
                    break
                except BufferError:
                    self._make_room(keep_waiting)
                except (KafkaException, TypeError, ValueError) as error:
                    raise Refused(topic, key, str(error)) from error

    def flush(self, keep_waiting: Callable[[], bool]) -> None:
        """Wait until all is acknowledged; asks `keep_waiting` about twice a second.

        Raises `Refused`, or `Abandoned` once `keep_waiting` says no.
        """
        waiting, heard_at = len(self._producer), time.monotonic()
        while still := self._served(self._producer.flush, FLUSH_STEP_S):
            if not keep_waiting():
                raise Abandoned
            if still < waiting:
                waiting, heard_at = still, time.monotonic()
            elif time.monotonic() - heard_at > _SILENT_S:
                self._say_away("the brokers acknowledge nothing")
        self._say_well()

    def look(self) -> None:
        """Keep the health true while there is nothing to publish; asks only brokers not yet well."""
        self._served(self._producer.poll, 0)
        if self._is_well:
            return
        try:
            self._producer.list_topics(timeout=_LOOK_S)
        except KafkaException as error:
            self._say_away(_reason(error))
        else:
            self._say_well()

    def _make_room(self, keep_waiting: Callable[[], bool]) -> None:
        if not keep_waiting():
            raise Abandoned
        self._served(self._producer.poll, FLUSH_STEP_S)

    def _served(self, serve: Callable[[float], int], seconds: float) -> int:
        """Let the client call back; raises `Refused` if it, or a message, is beyond hope."""
        try:
            answer = serve(seconds)
        except (KafkaException, SystemError) as error:
            # The client raises what is fatal to it here, and goes on to call back meanwhile, which
            # Python reports as a SystemError with the true error behind it.
            raise self._refused or self._beyond_hope(error.__cause__ or error) from error
        if self._refused:
            raise self._refused
        return answer

    def _beyond_hope(self, error: BaseException) -> Refused:
        if len(self._rows) == 1:
            _, topic, key, *_ = self._rows[0]
            return Refused(topic, key, str(error))
        return Refused("*", "*", f"one of {len(self._rows)} messages: {error}")

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error and self._refused is None:
            key = (message.key() or b"").decode(errors="replace")
            self._refused = Refused(message.topic() or "?", key, error.str())

    def _on_error(self, error: KafkaError) -> None:
        """Hear of what concerns no single message: one broker's troubles are the client's own."""
        if error.code() != KafkaError._TRANSPORT:  # noqa: SLF001 - so it is named in public, too
            self._say_away(error.str())

    def _say_away(self, reason: str) -> None:
        if self._is_well is not False:
            self._is_well = False
            self._health.unwell("kafka", reason)
            OUTAGES.inc()
            _log.warning("kafka is away; waiting for it", reason=reason)

    def _say_well(self) -> None:
        if self._is_well is False:
            _log.info("kafka is back")
        self._is_well = True
        self._health.well("kafka")


def producer_properties(kafka: dict[str, Any]) -> dict[str, Any]:
    """Return the producer's configuration: idempotent, patient, and partitioning as Java does."""
    return {
        "enable.idempotence": True,
        # A refused message ends the producer, so that no later one of its key is sent before it.
        "enable.gapless.guarantee": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "message.timeout.ms": 0,  # an outage is waited out, however long
        "delivery.report.only.error": True,  # a callback for each success would halve the rate
        "linger.ms": 0.5,
        "queue.buffering.max.messages": 200_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 2,  # below are failed connections, two lines a second through an outage
        **kafka,
    }


def is_kafka_error(error: BaseException) -> bool:
    return isinstance(error, KafkaException | Refused)


def _reason(error: KafkaException) -> str:
    cause: KafkaError = error.args[0]
    return str(cause.str())
