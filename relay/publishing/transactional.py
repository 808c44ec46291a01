"""A producer whose messages become visible together, or not at all: it works in Kafka transactions.

A producer of a `transactional.id` locks out any former producer of the same id (`begin_epoch`). What it
is given is sent in a transaction, which `end` makes visible:

    epoch begun ──enqueue──► open ──send_cursor, end──► ended ──enqueue──► open …
                              └──anything else──► given up: the next owner, or producer, begins an epoch

A request to end a transaction can outlive it. Its connection breaks, the client sends it again on another
one, and the first request arrives while the next transaction is open. All transactions of a producer have
one epoch in the protocol that the client speaks, so the broker ends what it finds open. Two rules:

- The cursor is sent after all messages are acknowledged. A transaction that is ended too early then has
  all of its messages or no cursor, so nothing is lost.
- A commit that lasted long enough for the client to have sent it twice is the last one of its producer.
  The next producer has the next epoch, and the brokers refuse requests of the former one, so nothing is
  committed in parts and published again.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import KafkaException

from innbox_process.health import Health
from relay.metrics import PRODUCERS_REPLACED
from relay.publishing.errors import Abandoned, KeepWaiting, judged
from relay.publishing.faults import Fault, fault_of
from relay.publishing.producer import (
    FLUSH_STEP_S,
    SILENT_S,
    MessageProducer,
    Row,
    changeable,
    producer_properties,
    reason_of,
)

_log = structlog.get_logger(__name__)

# The brokers give a transaction up after this; a longer outage means to begin it again.
_TRANSACTION_MS_MAX = 30_000
_ABORT_S_MAX = 2.0
# The brokers answer before they have written a transaction's end everywhere. One that begins meanwhile is
# put off, and the client asks again after 20 ms.
_PAUSE_S = 0.002

# The client waits before it sends a request again, by its own `retry.backoff.ms` less a fifth
# (librdkafka, rd_kafka_broker_buf_retry). A commit that was answered sooner was sent once.
_RETRY_MS, _RETRY_MS_MAX, _RETRY_SHARE_MIN = 100, 1_000, 0.8


class TransactionalProducer(MessageProducer):
    """A producer in transactions, of use after `begin_epoch` only, and from that one's thread."""

    def __init__(
        self,
        kafka: dict[str, Any],
        health: Health,
        name: str,
        *,
        cursor_topic: str,
        part: str = "",
        topic_prefix: str = "",
    ) -> None:
        """`name` makes the transactional id; `cursor_topic` is a full name."""
        self._kafka = changeable(kafka)
        self._name = name
        self._cursor_topic = cursor_topic
        self._is_open = False
        self._is_tried = False
        self._is_last = False
        self._ended_at = 0.0
        self._deferred: Sequence[Row] = ()
        self._retry_s_min = _retry_s_min(self._kafka)
        # Asked when the brokers say that another producer has the id by now; it may raise.
        self.on_fenced: Callable[[], object] = lambda: None
        super().__init__(kafka, health, part=part, topic_prefix=topic_prefix)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._is_open and self._is_well is not False:
            self._give_up()
        if self._is_open or kind:
            # The client's own end would first give the transaction up, and wait for that without end.
            with suppress(KafkaException, SystemError):
                self._producer.purge()
            del self._producer
        else:
            super().__exit__(kind, *error)

    def begin_epoch(self, keep_waiting: KeepWaiting) -> None:
        """End what a former producer of this id left open, and lock it out.

        Raises `Abandoned` once `keep_waiting` says no.
        """
        self._patiently(self._producer.init_transactions, keep_waiting)

    def enqueue(self, rows: Sequence[Row], keep_waiting: KeepWaiting) -> None:
        """Begin to send, in a transaction; the first time only with `send_deferred`.

        The next batch is read meanwhile, and where that takes longer than the brokers let a transaction
        be open, the one that was tried again would fail again.
        """
        if self._is_tried:
            self._send(rows, keep_waiting)
        else:
            self._deferred = [*self._deferred, *rows]

    def send_deferred(self, keep_waiting: KeepWaiting) -> None:
        """Begin the transaction if it is not open yet, and send what was put off."""
        deferred, self._deferred = self._deferred, ()
        self._send(deferred, keep_waiting)

    def send_cursor(
        self, key: str, value: bytes, partition: int, keep_waiting: KeepWaiting
    ) -> None:
        """Send a record to the topic of cursors, in the transaction; all messages are acknowledged."""
        while True:
            try:
                self._producer.produce(
                    self._cursor_topic, value, key, partition, on_delivery=self._on_delivery
                )
            except BufferError:
                self._make_room(keep_waiting)
            except KafkaException as error:
                self._hear_why(error)
                raise
            else:
                return

    def flush(self, keep_waiting: KeepWaiting) -> None:
        """Wait until all is acknowledged; raises why, where the transaction has failed as a whole."""
        try:
            super().flush(keep_waiting)
        except KafkaException as error:
            if fault_of(error.args[0]) is Fault.FOLLOWING:
                self._served(self._producer.commit_transaction, 0)  # it cannot be, and says why
            raise

    def end(self, keep_waiting: KeepWaiting) -> None:
        """Make the transaction visible; how long it took says if the request may have been sent twice."""
        began_at = time.monotonic()
        self._patiently(self._producer.commit_transaction, keep_waiting)
        self._is_open, self._is_tried, self._ended_at = False, True, time.monotonic()
        self._is_last = self._ended_at - began_at >= self._retry_s_min
        self._say_well()

    def warning_of(self, problem: str, keep_waiting: KeepWaiting) -> KeepWaiting:
        """Return how to wait for something that is a problem once it takes long."""
        silent_until = time.monotonic() + SILENT_S

        def waiting() -> bool:
            if time.monotonic() > silent_until:
                self._say_away(problem)
            return keep_waiting()

        return waiting

    def _properties(self, kafka: dict[str, Any]) -> dict[str, Any]:
        properties = producer_properties(kafka)
        # A transaction that fails is given up whole, so gaps do not matter, and its time is bounded.
        del properties["enable.gapless.guarantee"], properties["message.timeout.ms"]
        return {
            "transaction.timeout.ms": _TRANSACTION_MS_MAX,
            **properties,
            "transactional.id": f"{self._prefix}outbox-{self._name}",
        }

    def _give_up(self) -> None:
        """End the transaction, so that readers need not wait until the next owner does it."""
        try:
            self._producer.abort_transaction(_ABORT_S_MAX)
        except (KafkaException, SystemError) as failure:
            _log.debug("a transaction was not given up", reason=str(failure))
        else:
            self._is_open = False

    def _replace_producer(self, keep_waiting: KeepWaiting) -> None:
        """Go on with a producer of the next epoch.

        Another relay may have the shard by now, and be locked out by this. It begins again, and here the
        next announcement finds the lease lost, before anything is committed.
        """
        PRODUCERS_REPLACED.inc()
        self._producer = self._new_producer(self._kafka)
        self._patiently(self._producer.init_transactions, keep_waiting)
        self._is_last = False

    def _send(self, rows: Sequence[Row], keep_waiting: KeepWaiting) -> None:
        if self._is_last:
            self._replace_producer(keep_waiting)
        if not self._is_open:
            time.sleep(max(0.0, self._ended_at + _PAUSE_S - time.monotonic()))
            self._producer.begin_transaction()
            self._is_open = True
        super().enqueue(rows, keep_waiting)

    def _judged(self, cause: BaseException | None = None) -> BaseException | None:
        return judged(self._failures, cause, own_topic=self._cursor_topic)

    def _served(self, serve: Callable[[float], int | None], seconds: float) -> int | None:
        try:
            return super()._served(serve, seconds)
        except KafkaException as error:
            if fault_of(error.args[0]) is Fault.FENCED:
                self.on_fenced()
            raise

    def _patiently(self, step: Callable[[float], None], keep_waiting: KeepWaiting) -> None:
        """Take a step of the protocol, which may be taken again while the brokers do not answer."""
        silent_until = time.monotonic() + SILENT_S
        while True:
            try:
                self._served(step, FLUSH_STEP_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                if not keep_waiting():
                    raise Abandoned from error
                if time.monotonic() > silent_until:
                    self._say_away(reason_of(error))
            else:
                return


def _retry_s_min(kafka: dict[str, Any]) -> float:
    """Return the shortest time that the client lets pass before it sends a request again."""
    shortest_ms = float(kafka.get("retry.backoff.ms", _RETRY_MS)) * _RETRY_SHARE_MIN
    return min(shortest_ms, float(kafka.get("retry.backoff.max.ms", _RETRY_MS_MAX))) / 1_000
