"""Cursors in Kafka: in exactly-once mode a shard's place is written in the transaction of its messages.

The topic is compacted and has one partition; a record's key is the outbox and the shard, its value the
step that the transaction took: from where the database had announced it (see `outbox.reader.shards`) to
where the shard is now and, where a blocked key was retried, that key.
"""

import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from sqlalchemy import Connection, text

from innbox_process.kafka import BEGINNING, END, OffsetSpec, offsets, quiet_admin
from outbox.reader import Cursor, Shard
from relay.publishing.errors import Abandoned, KeepWaiting

PARTITION = 0

# A shard writes one record a transaction, so its last one is found near the end.
_WINDOW = 500
_CONTACT_S = 10
# Another shard's open transaction hides what lies behind it until the brokers end it.
_SILENCE_S_MAX = 120
_POLL_S = 0.5

IDENTITY = text("""
    SELECT system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
    FROM pg_control_system()
""")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a shard is and, if one of its blocked keys moved with it, how far that key is."""

    cursor: Cursor
    key: str | None = None
    key_cursor: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """From where, as the database has it, a transaction took a shard, and a key of it, to which place."""

    since: Cursor
    place: Progress
    key_since: Cursor | None = None


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Step).decode


def identity(connection: Connection, shard: Shard) -> str:
    """Name a shard of this very database: a copy restored elsewhere has another name."""
    return f"{connection.execute(IDENTITY).scalar_one()}/{shard.id}"


def newest(kafka: dict[str, Any], topic: str, name: str, keep_waiting: KeepWaiting) -> Step | None:
    """Return the last committed step of that name; None if there never was one.

    Everything that had been written when this was called is seen, committed or given up by then. Raises
    `KafkaException` where it cannot be, and `Abandoned` once `keep_waiting` says no.
    """
    admin = quiet_admin(kafka)
    _find(admin, topic, keep_waiting)
    low, high = (_offset(admin, topic, which, keep_waiting) for which in (BEGINNING, END))
    consumer = Consumer(
        kafka
        | {
            "group.id": f"{topic}-reader",  # the client demands one; nothing ever joins it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,  # so long the brokers hold back that there is no more
            "log_level": 0,
        }
    )
    try:
        begin = high
        while begin > low:
            begin, end = max(low, begin - max(_WINDOW, 4 * (high - begin))), begin
            if found := _last_between(consumer, topic, (begin, end), name, keep_waiting):
                return _of_long_ago(_decode(found))
    finally:
        consumer.close()
    return None


def _of_long_ago(step: Step) -> Step:
    """Forget when a cursor was read, which was said by another machine's clock."""
    cursor = replace(step.place.cursor, read_at=0.0)
    return replace(step, place=replace(step.place, cursor=cursor))


def _find(admin: AdminClient, topic: str, keep_waiting: KeepWaiting) -> None:
    """Raise `KafkaException` unless there is such a topic.

    All topics are asked for, since to ask for one that is missing might create it. And it must be asked:
    a client that knows no broker yet answers questions about offsets after three seconds only.
    """
    silent_until = time.monotonic() + _CONTACT_S
    while True:
        try:
            topics = admin.list_topics(timeout=_POLL_S).topics
            break
        except KafkaException:
            if not keep_waiting():
                raise Abandoned from None
            if time.monotonic() > silent_until:
                raise
    if topic not in topics:
        missing = f"there is no topic {topic}; the command `topics` creates it"
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, missing))


def _offset(admin: AdminClient, topic: str, which: OffsetSpec, keep_waiting: KeepWaiting) -> int:
    """Uncommitted ones count: what is being decided must be waited for."""

    def wait_for(answer: Future[Any]) -> None:
        while not wait([answer], _POLL_S).done:
            if not keep_waiting():
                raise Abandoned

    place = (topic, PARTITION)
    return offsets(admin, [place], which, timeout_s=_CONTACT_S, wait_for=wait_for)[place]


def _last_between(
    consumer: Consumer, topic: str, window: tuple[int, int], name: str, keep_waiting: KeepWaiting
) -> bytes | None:
    begin, end = window
    consumer.assign([TopicPartition(topic, PARTITION, begin)])
    wanted, found = name.encode(), None
    silent_until = time.monotonic() + _SILENCE_S_MAX
    while time.monotonic() < silent_until:
        if not keep_waiting():
            raise Abandoned
        message = consumer.poll(_POLL_S)
        if message is None:
            continue
        error = message.error()
        if error and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            raise KafkaException(error)
        offset = message.offset()
        assert offset is not None, "an event of a partition has a place in it"
        if offset >= end:  # the end of the partition counts, too
            return found
        if not error:
            silent_until = time.monotonic() + _SILENCE_S_MAX
            if message.key() == wanted:
                found = message.value()
            if offset == end - 1:
                return found
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"the end of {topic} cannot be read"))  # noqa: SLF001
