"""A member of a consumer group: reads batches, in order, and leaves out no message.

What is read is either returned by `batch`, or read again: by the next owner of a partition that was given
away, or here, from the group's offset. The brokers may be away for any time; that is waited out.

A partition is paused until it is placed where the group stands, and while the member rests; and not
longer, though the client keeps a pause over revocation: what is assigned is always placed, and resumed.
It is placed by offset *and epoch*: a log that was cut and has grown again has other records there.
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

from consumers.positions import Place, Positions
from innbox_process.health import Health
from innbox_process.records import place_of
from runtime.settings import Settings

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")

# Bounds how late a stop is noticed, and how late the brokers' return.
_POLL_S = 0.5
# Between two tries to place what was assigned just now: the client takes a moment to begin with it.
_PLACING_S = 0.05
_STARTING = "starting"


class Member:
    """One membership, used from one thread: the client's calls from two at a time can lock up."""

    def __init__(
        self, settings: Settings, group: str, topics: Sequence[str], health: Health
    ) -> None:
        self._settings = settings
        self._topics = [settings.kafka_prefix + topic for topic in topics]
        self._health = health
        self._owned: set[Place] = set()
        # Given away since the batch was read, though it may be here again.
        self._given_away: set[Place] = set()
        # Assigned, and paused until they are read from where the group stands.
        self._unplaced: set[Place] = set()
        self._positions = Positions(group, health)
        self._is_resting = False
        self._has_joined = False
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
        """Give the partitions away at once, after the offsets that are on their way.

        If the brokers are away there is nobody to tell; the client would wait for a whole session.
        """
        if self._problem is None or self._finds_brokers():
            self._consumer.close()

    def batch(self) -> list[Message]:
        """Wait a moment for one message, then take what else is there already.

        `consume` with a timeout would wait for the whole of it unless the batch is full.
        """
        self._given_away.clear()
        self._place()
        first = self._consumer.poll(_PLACING_S if self._unplaced else _POLL_S)
        messages = self._accepted([first] if first is not None else [])
        is_drained = first is None
        if messages and (room := self._settings.batch_size_max - 1):
            found = self._consumer.consume(room, self._settings.batch_wait_ms / 1000)
            messages += self._accepted(found)
            is_drained = len(found) < room
        if self._fatal:
            raise self._fatal
        self._look_for_brokers()
        if is_drained:
            self._look_for_stalls()
        return self.owned(messages)

    def owned(self, messages: Iterable[Message]) -> list[Message]:
        """Return those whose partition was not given away since: its next owner reads them again.

        That may be this member: what has left and come back is read again from the group's offset.
        """
        kept = self._owned - self._given_away
        return [message for message in messages if place_of(message)[:2] in kept]

    def rest(self, seconds: float, stop: Event, beat: Callable[[], None]) -> None:
        """Wait without leaving: a poll of paused partitions delivers nothing and counts as alive.

        What is delivered all the same is dropped, and its partition read again from the group's offset.
        """
        self._consumer.pause(_partitions(self._owned))
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0 and not stop.is_set():
            beat()
            message = self._consumer.poll(min(_POLL_S, left_s))
            if message is not None and self._accepted([message]):
                self._unplaced.add(place_of(message)[:2])
                self._consumer.pause(_partitions(self._owned))
        self._consumer.resume(_partitions(self._owned - self._unplaced))

    def commit(self, messages: Sequence[Message]) -> None:
        """Have offsets committed, without waiting: brokers that are away must not hold up a stop.

        What a lost commit costs is a redelivery.
        """
        last = {place_of(message)[:2]: message for message in messages}
        if offsets := list(map(_after, last.values())):
            self._consumer.commit(offsets=offsets, asynchronous=True)

    def _place(self) -> None:
        """Have partitions that are new read from where the group stands, by offset and epoch.

        By itself the client starts at the offset. A seek has it ask the brokers where the epoch of what
        was read last has ended, and start there if that is before the offset.
        """
        if not self._unplaced:
            return
        with suppress(KafkaException):  # brokers that are away are asked again in the next turn
            for start in self._consumer.committed(_partitions(self._unplaced), timeout=_POLL_S):
                self._seek(start)

    def _seek(self, start: TopicPartition) -> None:
        place = (start.topic, start.partition)
        if start.error:
            return
        with suppress(KafkaException):  # not begun to be read yet: likewise
            self._consumer.seek(start)
            self._consumer.resume([start])
            self._unplaced.discard(place)
            self._positions.starts(place, start.offset if start.offset >= 0 else None)

    def _accepted(self, messages: Iterable[Message]) -> list[Message]:
        return [message for message in messages if self._accepts(message)]

    def _accepts(self, message: Message) -> bool:
        """Tell a message from an error in its place, and from one that is read again when placed."""
        error = message.error()
        if error and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            self._on_error(error)
            return False
        topic, partition, offset = place_of(message)
        place = (topic, partition)
        if place not in self._owned or place in self._unplaced:
            return False
        self._positions.read(place, offset, offset if error else offset + 1)
        return not error

    def _look_for_stalls(self) -> None:
        """Compare partitions of which nothing came for long with their ends: one question for all."""
        if not (still := self._positions.still()):
            return
        asked = [TopicPartition(*place, OFFSET_END) for place in still]
        try:
            found = self._consumer.offsets_for_times(asked, timeout=_POLL_S)
        except KafkaException:
            return  # nobody knows; they are asked again
        ends = {(end.topic, end.partition): end.offset for end in found if not end.error}
        if stalled := self._positions.compare(ends):
            self._consumer.resume(_partitions(stalled))

    def _look_for_brokers(self) -> None:
        """Ask after what was away: the client library tells of its going only."""
        if self._problem is None or not self._has_joined or not self._finds_brokers():
            return
        self._problem = None
        self._health.well("kafka")
        _log.info("kafka is there")

    def _finds_brokers(self) -> bool:
        """Whether they answer, and know all topics."""
        try:
            return not any(
                self._consumer.list_topics(topic, timeout=_POLL_S).topics[topic].error
                for topic in self._topics
            )
        except KafkaException:
            return False

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = True
        places = _places(partitions)
        self._owned |= places
        self._unplaced |= places
        self._positions.assigned(places)
        consumer.pause(partitions)
        _log.info("partitions assigned", partitions=_names(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = _places(partitions)
        self._owned -= places
        self._unplaced -= places
        self._given_away |= places
        self._positions.revoked(places)
        _log.info("partitions revoked", partitions=_names(partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = False
        self._report("no member of the group any more")
        self._on_revoke(consumer, partitions)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = KafkaException(error)
        # One broker of several may be away; that all are is an error of its own.
        if error.code() != KafkaError._TRANSPORT:  # noqa: SLF001 - its public name
            self._report(error.str())

    def _report(self, problem: str) -> None:
        if self._problem in {None, _STARTING}:
            _log.warning("waiting for kafka", reason=problem)
        self._problem = problem
        self._health.unwell("kafka", problem)


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
        "log_level": 2,  # an error comes to `error_cb` too; its log repeats every attempt to connect
        **settings.kafka,
    }


def _on_commit(error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
    if error:
        _log.warning("offsets not committed; redelivery follows", reason=error.str())


def _after(message: Message) -> TopicPartition:
    """Return where to read on after a message; by its epoch a log that was cut since is noticed."""
    topic, partition, offset = place_of(message)
    epoch = message.leader_epoch()
    if epoch is None:
        return TopicPartition(topic, partition, offset + 1)
    return TopicPartition(topic, partition, offset + 1, leader_epoch=epoch)


def _partitions(places: Iterable[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]


def _places(partitions: Sequence[TopicPartition]) -> set[Place]:
    return {(partition.topic, partition.partition) for partition in partitions}


def _names(partitions: Sequence[TopicPartition]) -> list[str]:
    return [f"{partition.topic}/{partition.partition}" for partition in partitions]
