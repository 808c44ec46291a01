"""Cursors are read back from Kafka as they were last committed, whatever else is in their topic."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from os import getpid
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # OffsetSpec is public all the same
    AdminClient,
    OffsetSpec,
)
from confluent_kafka.cimpl import NewTopic

from ops.local import Servers
from outbox.reader import Cursor
from relay.publishing import kafka_cursors
from relay.publishing.errors import Abandoned
from relay.publishing.kafka_cursors import PARTITION, Progress, Step, encode, newest
from tests.support.waiting import DEADLINE_S, eventually

_numbers = count(1)


@pytest.fixture
def kafka(servers: Servers) -> dict[str, Any]:
    return {"bootstrap.servers": servers.kafka_bootstrap_servers}


@pytest.fixture
def topic(kafka: dict[str, Any]) -> str:
    """A topic of one partition that is there, empty; not compacted, so that it can be trimmed."""
    admin, name = AdminClient(kafka), f"cursors-{getpid()}-{next(_numbers)}"
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(DEADLINE_S)
    eventually(lambda: has_a_leader(admin, name))
    return name


def has_a_leader(admin: AdminClient, topic: str) -> bool:
    """Whether somebody answers for the partition; that there is one is known a little before."""
    place = TopicPartition(topic, PARTITION)
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    try:
        return bool(admin.list_offsets({place: latest})[place].result(DEADLINE_S).offset == 0)
    except KafkaException:
        return False


def test_an_empty_topic_has_no_cursor(kafka: dict[str, Any], topic: str) -> None:
    assert newest(kafka, topic, "ours", lambda: True) is None


def test_the_last_step_that_was_committed_counts(kafka: dict[str, Any], topic: str) -> None:
    step = a_step(2, key="7")
    with a_transaction(kafka) as writer:
        write(writer, topic, "ours", a_step(1), step)
        write(writer, topic, "theirs", a_step(3))
        writer.commit_transaction(DEADLINE_S)
    with a_transaction(kafka) as writer:
        write(writer, topic, "ours", a_step(4))
        writer.abort_transaction(DEADLINE_S)

    assert newest(kafka, topic, "ours", lambda: True) == step
    assert newest(kafka, topic, "nobody", lambda: True) is None


def test_a_cursor_is_found_however_far_back_it_is(
    kafka: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind windows that are full of other shards' cursors, and of such that came to nothing."""
    monkeypatch.setattr(kafka_cursors, "_WINDOW", 5)
    for_all = [a_step(number) for number in range(100)]
    with a_transaction(kafka) as writer:
        write(writer, topic, "ours", *for_all[:3])
        write(writer, topic, "theirs", *for_all)
        writer.commit_transaction(DEADLINE_S)
    with a_transaction(kafka) as writer:
        write(writer, topic, "ours", *for_all)
        writer.abort_transaction(DEADLINE_S)

    assert newest(kafka, topic, "ours", lambda: True) == for_all[2]
    assert newest(kafka, topic, "theirs", lambda: True) == for_all[-1]


def test_what_was_trimmed_from_the_topic_is_gone_and_what_was_left_is_found(
    kafka: dict[str, Any], topic: str
) -> None:
    with a_transaction(kafka) as writer:
        write(writer, topic, "gone", a_step(1))
        write(writer, topic, "left", a_step(2))
        writer.commit_transaction(DEADLINE_S)
    admin, place = AdminClient(kafka), TopicPartition(topic, PARTITION, 1)
    admin.delete_records([place])[place].result(10)

    assert newest(kafka, topic, "gone", lambda: True) is None
    assert newest(kafka, topic, "left", lambda: True) == a_step(2)


def test_a_transaction_that_is_open_is_waited_for(kafka: dict[str, Any], topic: str) -> None:
    """What lies behind it is not readable before; ours may."""
    asked = count()
    with a_transaction(kafka) as theirs, a_transaction(kafka) as ours:
        write(theirs, topic, "theirs", a_step(1))
        write(ours, topic, "ours", a_step(2))
        ours.commit_transaction(DEADLINE_S)

        def end_theirs_at_last() -> bool:
            if next(asked) == 2:
                theirs.commit_transaction(DEADLINE_S)
            return True

        assert newest(kafka, topic, "ours", end_theirs_at_last) == a_step(2)
        assert next(asked) > 2
        assert newest(kafka, topic, "theirs", lambda: True) == a_step(1)


def test_the_wait_for_an_open_transaction_is_bounded_and_ends_with_a_stop(
    kafka: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_transaction(kafka) as theirs:
        write(theirs, topic, "theirs", a_step(1))
        with pytest.raises(Abandoned):
            newest(kafka, topic, "ours", lambda: False)
        monkeypatch.setattr(kafka_cursors, "_SILENCE_S_MAX", 0.1)
        with pytest.raises(KafkaException, match="cannot be read"):
            newest(kafka, topic, "ours", lambda: True)
        theirs.abort_transaction(DEADLINE_S)


def a_step(number: int, key: str | None = None) -> Step:
    """A step with all that a cursor may have."""
    since = Cursor("1:9:3,5", "1:19:3", 12, 10, "9", number)
    after = Cursor("1:19:3", None, None, 15, "19", number)
    if key is None:
        return Step(since, Progress(after))
    return Step(since, Progress(after, key, since), after)


@contextmanager
def a_transaction(kafka: dict[str, Any]) -> Iterator[Producer]:
    """A producer in a transaction of its own, which the block ends."""
    producer = Producer(kafka | {"transactional.id": f"cursors-{getpid()}-{next(_numbers)}"})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    yield producer
    producer.close()


def write(producer: Producer, topic: str, name: str, *steps: Step) -> None:
    """Have records written; that they are readable is another thing."""
    for step in steps:
        producer.produce(topic, encode(step), name, PARTITION)
    producer.flush()
