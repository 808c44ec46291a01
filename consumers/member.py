"""A member of a consumer group: reads batches, in order, and leaves out no message.

What is read is either returned by `batch`, or kept for the next one, or of a partition that was given
away, whose next owner reads it again. The brokers may be away for any time; that is waited out.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from threading import Event
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.records import place_of
from runtime.health import Health
from runtime.settings import Settings

_log = structlog.get_logger(__name__)
_client_log = logging.getLogger("librdkafka")

# Bounds how late a stop is noticed, and how late the brokers' return.
_POLL_S = 0.5
_STARTING = "starting"


class Member:
    """One membership, used from one thread: the client's calls from two at a time can lock up."""

    def __init__(
        self, settings: Settings, group: str, topics: Sequence[str], health: Health
    ) -> None:
        self._settings = settings
        self._topics = [settings.kafka_prefix + topic for topic in topics]
        self._health = health
        self._kept: list[Message] = []
        self._owned: set[tuple[str, int]] = set()
        self._has_joined = False
        self._problem: str | None = _STARTING
        self._fatal: KafkaException | None = None
        self._consumer = Consumer(
            consumer_properties(settings, group)
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
        messages, self._kept = self._kept, []
        if not messages:
            first = self._consumer.poll(_POLL_S)
            messages = [first] if first is not None else []
        room = self._settings.batch_size_max - len(messages)
        if messages and room > 0:
            messages += self._consumer.consume(room, self._settings.batch_wait_ms / 1000)
        if self._fatal:
            raise self._fatal
        self._look_for_brokers()
        return self.owned(message for message in messages if self._is_whole(message))

    def owned(self, messages: Iterable[Message]) -> list[Message]:
        """Return those whose partition was not given away since: its next owner reads them again."""
        return [message for message in messages if place_of(message)[:2] in self._owned]

    def rest(self, seconds: float, stop: Event, beat: Callable[[], None]) -> None:
        """Wait without leaving: a poll of paused partitions delivers nothing and counts as alive.

        A partition that is assigned meanwhile is not paused yet. Its first message is kept; dropped,
        it would be committed over with the next one.
        """
        self._consumer.pause(self._partitions())
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0 and not stop.is_set():
            beat()
            message = self._consumer.poll(min(_POLL_S, left_s))
            if message is not None and self._is_whole(message):
                self._kept.append(message)
                self._consumer.pause(self._partitions())
        self._consumer.resume(self._partitions())

    def commit(self, messages: Sequence[Message]) -> None:
        """Have offsets committed, without waiting: brokers that are away must not hold up a stop.

        What a lost commit costs is a redelivery.
        """
        ends = {place[:2]: place[2] + 1 for place in map(place_of, messages)}
        if offsets := [TopicPartition(*place, end) for place, end in ends.items()]:
            self._consumer.commit(offsets=offsets, asynchronous=True)

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(*place) for place in self._owned]

    def _is_whole(self, message: Message) -> bool:
        """Tell a message from an error in its place."""
        if error := message.error():
            self._on_error(error)
            return False
        return True

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

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = True
        self._owned |= _places(partitions)
        _log.info("partitions assigned", partitions=_names(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._owned -= _places(partitions)
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


def _places(partitions: Sequence[TopicPartition]) -> set[tuple[str, int]]:
    return {(partition.topic, partition.partition) for partition in partitions}


def _names(partitions: Sequence[TopicPartition]) -> list[str]:
    return [f"{partition.topic}/{partition.partition}" for partition in partitions]
