"""A consumer of a group: reads batches, in order, and leaves out no message.

A message that was read is either returned by `batch`, or read again: by the next owner of a partition
that was revoked, or here, from the group's offset. An outage of the brokers is waited out, however long
it is.

A partition is paused until the consumer has sought to the group's offset, and while the consumer rests,
and no longer. The client library keeps a pause over a revocation, so each assigned partition is sought
and resumed. The seek is by offset *and leader epoch*: a log that was truncated and has grown again has
other records at the same offset.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Event
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from consumers.positions import Partition, Positions
from innbox_process.health import Health
from innbox_process.records import location_of
from outbox import Pace
from runtime.settings import Settings

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")

# Bounds how late a stop is noticed, and how late the brokers' return.
_POLL_S = 0.5
# Between two seeks of a new partition: the client refuses them until it has begun to fetch.
_SEEK_RETRY_S = 0.05
# Between two commits of offsets; a crash has so much handled once more.
OFFSETS_EVERY_S = 0.25
_STARTING = "starting"


class GroupConsumer:
    """One member of the group, used from one thread: two threads in the client can lock up."""

    def __init__(
        self, settings: Settings, group: str, topics: Sequence[str], health: Health
    ) -> None:
        self._settings = settings
        self._topics = [settings.kafka_prefix + topic for topic in topics]
        self._health = health
        # Revoked since the batch was read, even if assigned again since.
        self._revoked_since: set[Partition] = set()
        # The last handled message of each partition whose offset is not committed yet.
        self._handled: dict[Partition, Message] = {}
        self._committed_at = 0.0
        # Assigned, and paused until the seek to the group's offset.
        self._to_seek: set[Partition] = set()
        self._positions = Positions(group, health)
        self._owned = self._positions.known.keys()
        self._has_joined = False
        self._pace = Pace(settings.gather_ms)
        self._problem: str | None = _STARTING
        self._fatal: KafkaException | None = None
        self._consumer = Consumer(
            consumer_properties(settings, group)
            # The end of a partition is read as well: behind its last record may be offsets without one.
            | {"enable.partition.eof": True}
            | {"error_cb": self._on_error, "on_commit": _on_commit, "logger": _client_log}
        )

    def join(self) -> None:
        self._consumer.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def leave(self) -> None:
        """Leave the group at once, after the offsets that are on their way.

        Without brokers the client would wait for a whole session, so it does not leave then.
        """
        if self._problem is None or self._finds_brokers():
            self._commit()
            self._consumer.close()

    def batch(self) -> list[Message]:
        """Wait a moment for one message, then take what the client has already fetched.

        If there was one at once, more may gather first, where that pays (see `outbox.Pace`).
        """
        self._revoked_since.clear()
        self._seek_assigned()
        first, rest_s = self._consumer.poll(0), self._pace.rest_s()
        if first is None:
            first, rest_s = self._wait_for_one(), 0.0
        messages = [first] if first is not None and self._accepts(first) else []
        is_drained = first is None
        if messages and (room := self._settings.batch_size_max - 1):
            found = self._consumer.consume(room, rest_s)
            messages += filter(self._accepts, found)
            is_drained = len(found) < room
        self._pace.count(len(messages))
        if self._fatal:
            raise self._fatal
        self._look_for_brokers()
        if is_drained:
            self._look_for_stalls()
        return self.owned(messages)

    def _wait_for_one(self) -> Message | None:
        if self._to_seek:
            return self._consumer.poll(_SEEK_RETRY_S)
        first = self._consumer.poll(OFFSETS_EVERY_S if self._handled else _POLL_S)
        if first is None:
            self._commit()
        return first

    def owned(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages whose partition was not revoked since: its next owner reads the others.

        The next owner may be this consumer: a partition that returns is read from the group's offset.
        """
        kept = self._owned - self._revoked_since
        return [message for message in messages if location_of(message)[:2] in kept]

    def rest(self, seconds: float, stop: Event, beat: Callable[[], None]) -> None:
        """Wait without leaving the group: a poll of paused partitions is a heartbeat alone.

        A message that is delivered all the same is dropped, and its partition read from the group's
        offset.
        """
        self._consumer.pause(_topic_partitions(self._owned))
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0 and not stop.is_set():
            beat()
            message = self._consumer.poll(min(_POLL_S, left_s))
            if message is not None and self._accepts(message):
                self._to_seek.add(location_of(message)[:2])
                self._consumer.pause(_topic_partitions(self._owned))
        self._consumer.resume(_topic_partitions(self._owned - self._to_seek))

    def handled(self, messages: Sequence[Message]) -> None:
        """Have the offsets behind these messages committed: soon, together with those of later ones.

        A crash before costs a redelivery. For each batch a commit would cost the brokers as much as the
        batch itself.
        """
        self._handled |= {location_of(message)[:2]: message for message in messages}
        if time.monotonic() - self._committed_at >= OFFSETS_EVERY_S:
            self._commit()

    def _commit(self) -> None:
        """Commit offsets without waiting: an outage of the brokers must not delay a stop."""
        self._committed_at = time.monotonic()
        if offsets := list(map(_after, self._handled.values())):
            self._consumer.commit(offsets=offsets, asynchronous=True)
        self._handled.clear()

    def _seek_assigned(self) -> None:
        """Seek new partitions to the group's offset, by offset and leader epoch.

        By itself the client starts at the offset. After a seek with an epoch it asks the brokers where
        that epoch ended, and starts there if that is before the offset.
        """
        if not self._to_seek:
            return
        with suppress(KafkaException):  # an outage: the next turn retries
            for start in self._consumer.committed(
                _topic_partitions(self._to_seek), timeout=_POLL_S
            ):
                self._seek(start)

    def _seek(self, start: TopicPartition) -> None:
        partition = (start.topic, start.partition)
        if start.error:
            return
        with suppress(KafkaException):  # the client has not begun to fetch yet: likewise
            self._consumer.seek(start)
            self._consumer.resume([start])
            self._to_seek.discard(partition)
            self._positions.starts(partition, start.offset if start.offset >= 0 else None)

    def _accepts(self, message: Message) -> bool:
        """Return whether this is a message to handle: no error, and of a partition that was sought."""
        error = message.error()
        if error and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            self._on_error(error)
            return False
        topic, number, offset = location_of(message)
        partition = (topic, number)
        if partition not in self._owned or partition in self._to_seek:
            return False
        self._positions.read(partition, offset, offset if error else offset + 1)
        return not error

    def _look_for_stalls(self) -> None:
        """Compare partitions that delivered nothing for long with their ends, in one request."""
        if not (still := self._positions.still()):
            return
        wanted = [TopicPartition(*partition, OFFSET_END) for partition in still]
        try:
            found = self._consumer.offsets_for_times(wanted, timeout=_POLL_S)
        except KafkaException:
            return  # the next turn retries
        ends = {(end.topic, end.partition): end.offset for end in found if not end.error}
        if stalled := self._positions.compare(ends):
            self._consumer.resume(_topic_partitions(stalled))

    def _look_for_brokers(self) -> None:
        """Ask whether the brokers are back: the client library reports only that they went."""
        if self._problem is None or not self._has_joined or not self._finds_brokers():
            return
        self._problem = None
        self._health.well("kafka")
        _log.info("kafka is available again")

    def _finds_brokers(self) -> bool:
        """Return whether the brokers answer, and know all topics."""
        try:
            return not any(
                self._consumer.list_topics(topic, timeout=_POLL_S).topics[topic].error
                for topic in self._topics
            )
        except KafkaException:
            return False

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = True
        assigned = _partitions_of(partitions)
        self._to_seek |= assigned
        self._positions.assigned(assigned)
        consumer.pause(partitions)
        _log.info("partitions assigned", partitions=_names(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit()  # the next owner begins there
        revoked = _partitions_of(partitions)
        self._to_seek -= revoked
        self._revoked_since |= revoked
        self._positions.revoked(revoked)
        _log.info("partitions revoked", partitions=_names(partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = False
        self._report("no longer a member of the consumer group")
        self._handled.clear()
        self._on_revoke(consumer, partitions)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = KafkaException(error)
        # One broker of several may be down; the client reports it by itself when all are.
        if error.code() != KafkaError._TRANSPORT:  # noqa: SLF001 - its public name
            self._report(error.str())

    def _report(self, problem: str) -> None:
        if self._problem in {None, _STARTING}:
            _log.warning("waiting for kafka", reason=problem)
        self._problem = problem
        self._health.unwell("kafka", problem)


def consumer_properties(settings: Settings, group: str) -> dict[str, Any]:
    """Return the properties of a consumer that commits by hand and reads committed records only."""
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
        "log_level": 2,  # an error comes to `error_cb` too; its log repeats every attempt to connect
        **settings.kafka,
    }


def _on_commit(error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
    if error:
        _log.warning("offsets not committed; redelivery follows", reason=error.str())


def _after(message: Message) -> TopicPartition:
    """Return the offset after a message, with its leader epoch, by which a truncated log is noticed."""
    topic, partition, offset = location_of(message)
    epoch = message.leader_epoch()
    if epoch is None:
        return TopicPartition(topic, partition, offset + 1)
    return TopicPartition(topic, partition, offset + 1, leader_epoch=epoch)


def _topic_partitions(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in partitions]


def _partitions_of(partitions: Sequence[TopicPartition]) -> set[Partition]:
    return {(partition.topic, partition.partition) for partition in partitions}


def _names(partitions: Sequence[TopicPartition]) -> list[str]:
    return [f"{partition.topic}/{partition.partition}" for partition in partitions]
