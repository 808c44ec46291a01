"""Publishing: rows of the outbox to Kafka, in their order, each acknowledged by all replicas in sync.

The producer is idempotent, so what it retries is neither doubled nor reordered. An outage of the brokers
is waited out for as long as the caller wishes; it is no message's fault. A message that cannot be
published as it is raises `PublishRefused`; the caller must not save its cursor, and nothing behind it
in its partition is sent.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from innbox_process.health import Health
from outbox.reader import decode_headers
from relay.metrics import OUTAGES
from relay.publishing.errors import Abandoned, KeepWaiting, PublishRefused, judged, refused

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")
# What is fatal to a client, a refusal say, is raised as well, and said once where that ends.
_client_log.addFilter(lambda record: not record.getMessage().startswith("FATAL"))

# How often a waiting flush lets the caller look for a stop or a lost lease.
FLUSH_STEP_S = 0.5
_LOOK_S = 0.5
_HEAR_S = 0.05
# A first publication, or a change of leaders, may take a second.
SILENT_S = 2.0

# What the guarantees rest on, whatever the configuration says.
_FIXED = frozenset(
    {
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "enable.gapless.guarantee",
        "transactional.id",
    }
)

# What a producer, or its transaction, says that is of no more use.
_FAILED_BEFORE = frozenset({KafkaError._FATAL, KafkaError._STATE})  # noqa: SLF001 - public, too


# Position, topic, key, value, encoded headers, and one thing more; its fields have no names, since a
# named tuple would cost 0.2 µs a message.
Row = tuple[Any, ...]


class MessageProducer:
    """One producer of Kafka. `enqueue` hands messages over, `flush` waits until all are acknowledged.

    After any of its exceptions it is of no more use: another one begins anew at the saved cursor.
    """

    def __init__(
        self, kafka: dict[str, Any], health: Health, *, part: str = "", topic_prefix: str = ""
    ) -> None:
        self._health = health
        self._part = part  # of the process, in whose name its health is said
        self._prefix = topic_prefix
        self._failures: tuple[tuple[KafkaError, Message], ...] = ()
        self._is_well: bool | None = None  # None: not heard of yet
        self._producer = self._new_producer(kafka)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whatever is still queued has no saved cursor and belongs to the next owner of the shard.
        try:
            self._producer.purge()
            self._producer.close()
        except (KafkaException, SystemError) as fatal:
            # As in `_served`; the error that ended the block, if any, is the one that matters.
            _log.debug("a producer ended badly", reason=str(fatal))

    def enqueue(self, rows: Sequence[Row], keep_waiting: KeepWaiting) -> None:
        """Hand rows to the producer, which begins to send them at once; waits while it is full."""
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
                    self._hear_why(error)
                    raise refused(prefix + topic, key, error) from error

    def flush(self, keep_waiting: KeepWaiting) -> None:
        """Wait until all is acknowledged; asks `keep_waiting` about twice a second.

        Raises `PublishRefused`, or `Abandoned` once `keep_waiting` says no.
        """
        waiting, heard_at = len(self._producer), time.monotonic()
        while still := self._served(self._producer.flush, FLUSH_STEP_S):
            if not keep_waiting():
                raise Abandoned
            if still < waiting:
                waiting, heard_at = still, time.monotonic()
            elif time.monotonic() - heard_at > SILENT_S:
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
            self._say_away(reason_of(error))
        else:
            self._say_well()

    def _new_producer(self, kafka: dict[str, Any]) -> Producer:
        callbacks = {"error_cb": self._on_error, "logger": _client_log}
        return Producer(self._properties(kafka) | callbacks)

    def _properties(self, kafka: dict[str, Any]) -> dict[str, Any]:
        return producer_properties(kafka)

    def _make_room(self, keep_waiting: KeepWaiting) -> None:
        if not keep_waiting():
            raise Abandoned
        self._served(self._producer.poll, FLUSH_STEP_S)

    def _served(self, serve: Callable[[float], int | None], seconds: float) -> int | None:
        """Let the client call back; raises what that, or a message, has come to."""
        try:
            answer = serve(seconds)
        except (KafkaException, SystemError) as error:
            # The client raises what is fatal to it here, and goes on to call back meanwhile, which
            # Python reports as a SystemError with the true error behind it.
            cause = error.__cause__ or error
            if not self._failures and not isinstance(cause, KafkaException):
                raise
            self._hear_rest(cause)
            raise self._judged(cause) or cause from error
        if failure := self._judged():
            raise failure
        return answer

    def _hear_why(self, error: Exception) -> None:
        """Raise what a message before has come to, if that is why the producer takes no more."""
        if isinstance(error, KafkaException) and error.args[0].code() in _FAILED_BEFORE:
            self._hear_rest(error)
            if failure := self._judged():
                raise failure

    def _judged(self, cause: BaseException | None = None) -> BaseException | None:
        return judged(self._failures, cause)

    def _hear_rest(self, error: BaseException) -> None:
        """Let the client tell of the messages; that it failed is known before which ones it failed."""
        if isinstance(error, KafkaException) and error.args[0].retriable():
            return
        ends_at = time.monotonic() + FLUSH_STEP_S
        while time.monotonic() < ends_at and not isinstance(self._judged(), PublishRefused):
            with suppress(KafkaException, SystemError):
                self._producer.poll(_HEAR_S)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Hear of a failure.

        It may be called while an exception is pending (see `_served`); so it calls nothing itself.
        """
        if error is not None:
            self._failures += ((error, message),)

    def _on_error(self, error: KafkaError) -> None:
        """Hear of what concerns no single message: one broker's troubles are the client's own."""
        if error.code() != KafkaError._TRANSPORT:  # noqa: SLF001 - so it is named in public, too
            self._say_away(error.str())

    def _say_away(self, reason: str) -> None:
        if self._is_well is not False:
            self._is_well = False
            self._health.unwell("kafka", reason, of=self._part)
            OUTAGES.inc()
            _log.warning("kafka is away; waiting for it", reason=reason)

    def _say_well(self) -> None:
        if self._is_well is False:
            _log.info("kafka is back")
        self._is_well = True
        self._health.well("kafka", of=self._part)


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
        "message.max.bytes": 100_000_000,  # what a topic takes is for its brokers to say
        "linger.ms": 0.5,
        "queue.buffering.max.messages": 200_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 2,  # below are failed connections, two lines a second through an outage
        **changeable(kafka),
    }


def changeable(kafka: dict[str, Any]) -> dict[str, Any]:
    """Return the properties without those that are not for a configuration to change."""
    return {name: value for name, value in kafka.items() if name not in _FIXED}


def is_kafka_error(error: BaseException) -> bool:
    return isinstance(error, KafkaException | PublishRefused)


def reason_of(error: KafkaException) -> str:
    cause: KafkaError = error.args[0]
    return str(cause.str())
