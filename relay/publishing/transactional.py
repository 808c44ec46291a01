"""Publishing exactly once: messages and cursor in one Kafka transaction, whose truth is Kafka's.

A reader of committed records sees every message once, whatever dies and whenever. The producer of a
shard has a `transactional.id` of its own: whoever takes the shard over first ends what the former owner
left open and locks it out (`init_transactions`), then asks Postgres whether the shard is still its own,
then reads the last step back from Kafka. In that order a relay that was paused anywhere can only find
itself locked out, or publish from the true cursor.

    resumed ──enqueue──► open ──commit: announce in Postgres, end in Kafka──► ended ──save──► open …
                          └──anything else──► given up: the next owner, or publisher, resumes

Postgres announces each step before Kafka ends it. So its cursor is at most that one step behind, and
Kafka's counts if, and only if, it is the step from where Postgres stands. A database that has forgotten
an announcement has lost its latest transactions: then Kafka's cursor speaks of ids that are given out
again, and to go on from it would lose messages, where Postgres' own at worst repeats some.

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
from dataclasses import replace
from types import TracebackType
from typing import Any

import structlog
from confluent_kafka import KafkaException
from sqlalchemy import Connection

from innbox_process.health import Health, HealthOf
from outbox import reader
from outbox.reader import BlockedKey, Shard
from relay.config import CURSOR_TOPIC
from relay.metrics import PRODUCERS_REPLACED
from relay.publishing.errors import Abandoned, judged
from relay.publishing.faults import Fault, fault_of
from relay.publishing.kafka_cursors import PARTITION, Place, Step, encode, newest
from relay.publishing.producer import (
    FLUSH_STEP_S,
    SILENT_S,
    Publisher,
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


class ExactlyOncePublisher(Publisher):
    """A publisher whose `commit` makes messages and cursor visible together, or not at all.

    It is of use after `resume` only, and from that one's thread.
    """

    def __init__(
        self,
        kafka: dict[str, Any],
        health: Health | HealthOf,
        name: str,
        *,
        cursor_topic: str = CURSOR_TOPIC,
        topic_prefix: str = "",
    ) -> None:
        self._kafka = changeable(kafka)
        self._name = name
        self._topic = topic_prefix + cursor_topic
        self._is_open = False
        self._is_tried = False
        self._is_last = False
        self._ended_at = 0.0
        self._kept: Sequence[tuple[Any, ...]] = ()
        self._announcing: tuple[Connection, Shard, float] | None = None
        self._retry_s_min = _retry_s_min(self._kafka)
        super().__init__(kafka, health, topic_prefix=topic_prefix)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_open and self._is_well is not False:
            self._give_up()
        if self._is_open or kind:
            # The client's own end would first give the transaction up, and wait for that without end.
            with suppress(KafkaException, SystemError):
                self._producer.purge()
            del self._producer
        else:
            super().__exit__(kind, error, trace)

    def resume(
        self,
        connection: Connection,
        shard: Shard,
        keep_waiting: Callable[[], bool],
        *,
        lease_s: float,
    ) -> Shard:
        """Lock out whoever had the shard, and return it where it truly is.

        Raises `LeaseLost` if it is no longer ours, and `Abandoned` once `keep_waiting` says no.
        """
        self._patiently(self._producer.init_transactions, keep_waiting)
        # Not before: between an earlier look and the line above, somebody else may have begun.
        shard = reader.reload_shard(connection, shard, lease_s=lease_s)
        waiting = self._saying(f"the end of {self._topic} is not decided yet", keep_waiting)
        step = newest(self._kafka, self._topic, self._name, waiting)
        self._announcing = connection, shard, lease_s
        if step and step.since == shard.cursor:
            _log.info("the cursor in Kafka is the newer one", shard=shard.id)
            return _saved(connection, shard, step, lease_s=lease_s)
        if step and step.place.cursor.number > shard.cursor.number:
            _log.error("the database has lost cursors; messages may be repeated", shard=shard.id)
        return shard

    def enqueue(self, rows: Sequence[tuple[Any, ...]], keep_waiting: Callable[[], bool]) -> None:
        """Begin to send, in a transaction; the first time only with the commit.

        The next reading is made meanwhile, and where it takes longer than the brokers let a transaction
        be open, the one that was tried again would fail again.
        """
        if self._is_tried:
            self._send(rows, keep_waiting)
        else:
            self._kept = [*self._kept, *rows]

    def commit(self, place: Place, keep_waiting: Callable[[], bool]) -> None:
        """End the transaction of what was enqueued and of the cursor; raises `LeaseLost`, too."""
        kept, self._kept = self._kept, ()
        self._send(kept, keep_waiting)
        step = self._announced(place)  # while the brokers acknowledge
        self.flush(keep_waiting)  # before the cursor: see above
        self._tell_place(step, keep_waiting)
        self.flush(keep_waiting)
        self._end(keep_waiting)
        self._say_well()

    def flush(self, keep_waiting: Callable[[], bool]) -> None:
        """Wait until all is acknowledged; raises why, where the transaction has failed as a whole."""
        try:
            super().flush(keep_waiting)
        except KafkaException as error:
            if fault_of(error.args[0]) is Fault.FOLLOWING:
                self._served(self._producer.commit_transaction, 0)  # it cannot be, and says why
            raise

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

    def _end(self, keep_waiting: Callable[[], bool]) -> None:
        """End the transaction; the time that this took says whether it may have been sent twice."""
        began_at = time.monotonic()
        self._patiently(self._producer.commit_transaction, keep_waiting)
        self._is_open, self._is_tried, self._ended_at = False, True, time.monotonic()
        self._is_last = self._ended_at - began_at >= self._retry_s_min

    def _replace_producer(self, keep_waiting: Callable[[], bool]) -> None:
        """Go on with a producer of the next epoch.

        Another relay may have the shard by now, and be locked out by this. It begins again, and here the
        next announcement finds the lease lost, before anything is committed.
        """
        PRODUCERS_REPLACED.inc()
        self._producer = self._new_producer(self._kafka)
        self._patiently(self._producer.init_transactions, keep_waiting)
        self._is_last = False

    def _send(self, rows: Sequence[tuple[Any, ...]], keep_waiting: Callable[[], bool]) -> None:
        if self._is_last:
            self._replace_producer(keep_waiting)
        if not self._is_open:
            time.sleep(max(0.0, self._ended_at + _PAUSE_S - time.monotonic()))
            self._producer.begin_transaction()
            self._is_open = True
        super().enqueue(rows, keep_waiting)

    def _announced(self, place: Place) -> Step:
        """Announce the step to a place, and return it with where it starts from."""
        assert self._announcing, "who publishes has resumed"
        connection, shard, lease_s = self._announcing
        since = reader.record_intent(connection, shard, place.cursor.number, lease_s=lease_s)
        blocked = _blocked_key(connection, shard, place.key) if place.key is not None else None
        return Step(since, place, blocked.cursor if blocked else None)

    def _tell_place(self, step: Step, keep_waiting: Callable[[], bool]) -> None:
        value = encode(step)
        while True:
            try:
                self._producer.produce(
                    self._topic, value, self._name, PARTITION, on_delivery=self._on_delivery
                )
            except BufferError:
                self._make_room(keep_waiting)
            except KafkaException as error:
                self._hear_why(error)
                raise
            else:
                return

    def _judged(self, cause: BaseException | None = None) -> BaseException | None:
        return judged(self._failures, cause, own_topic=self._topic)

    def _served(self, serve: Callable[[float], int | None], seconds: float) -> int | None:
        try:
            return super()._served(serve, seconds)
        except KafkaException as error:
            # The next owner has called `init_transactions`, or a former one that woke up in vain.
            if self._announcing and fault_of(error.args[0]) is Fault.FENCED:
                connection, shard, lease_s = self._announcing
                reader.renew(connection, shard, lease_s=lease_s)
            raise

    def _patiently(self, step: Callable[[float], None], keep_waiting: Callable[[], bool]) -> None:
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

    def _saying(self, problem: str, keep_waiting: Callable[[], bool]) -> Callable[[], bool]:
        """Return how to wait for something that is a problem once it takes long."""
        silent_until = time.monotonic() + SILENT_S

        def waiting() -> bool:
            if time.monotonic() > silent_until:
                self._say_away(problem)
            return keep_waiting()

        return waiting


def _saved(connection: Connection, shard: Shard, step: Step, *, lease_s: float) -> Shard:
    """Bring the database's cursors to where a step that it has not heard of has taken them."""
    place = step.place
    if place.key is not None and place.key_cursor is not None:
        blocked = _blocked_key(connection, shard, place.key)
        if blocked and blocked.cursor == step.key_since:
            moved = replace(blocked, cursor=place.key_cursor)
            return reader.save_key(connection, shard, place.cursor, moved, lease_s=lease_s)
    return reader.save(connection, shard, place.cursor, lease_s=lease_s)


def _retry_s_min(kafka: dict[str, Any]) -> float:
    """Return the shortest time that the client lets pass before it sends a request again."""
    shortest_ms = float(kafka.get("retry.backoff.ms", _RETRY_MS)) * _RETRY_SHARE_MIN
    return min(shortest_ms, float(kafka.get("retry.backoff.max.ms", _RETRY_MS_MAX))) / 1_000


def _blocked_key(connection: Connection, shard: Shard, key: str) -> BlockedKey | None:
    found = [known for known in reader.blocked_keys(connection, shard.hashes) if known.key == key]
    return found[0] if found else None
