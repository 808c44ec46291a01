"""Brokers that lost the end of a log and publish over it: all that they hold is read, and it is said."""

import os
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from consumers.group import GroupConsumer
from domain.messages import ROOM_RESERVE
from innbox_process.health import Health
from innbox_process.records import Record, record_of
from ops import local
from ops.topics import create_topics
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.brokers import kill_broker, start_broker
from tests.support.room_requests import requests
from tests.support.saga import publish
from tests.support.waiting import eventually

OLD, NEW = 30, 60
# How many of its ten records each partition keeps.
KEPT = {0: 4, 1: 0, 2: 10}
DEADLINE_S = 60.0


@pytest.mark.proof
def test_what_is_published_over_a_lost_end_is_read(database_url: str, data: Path) -> None:
    """By a member that stays, which the client itself puts back, and by one that joins again."""
    parts: tuple[local.Part, ...] = ("kafka",)
    with local.running(data, parts=parts, durable=False) as servers:
        # A minute: one stays a member while the broker is away.
        settings = a_configuration(servers, database_url, consumer_session_s=60.0)
        create_topics(settings)
        with a_reader(settings, "stays") as stays:
            sizes = publish_old(settings, data)
            read(stays, OLD)
            with a_reader(settings, "returns") as returns:
                read(returns, OLD)

            kill_broker(data, 1)
            for log, size in sizes.items():
                os.truncate(log, size)
            start_broker(data, 1)
            new = requests(1_000, NEW)
            publish(settings, new)

            with capture_logs() as logged:
                assert read(stays, NEW) == ids(new)
                with a_reader(settings, "returns") as returns:
                    assert read(returns, NEW) == ids(new)
    assert lost(logged) == [(0, 4, 9), (0, 4, 9), (1, 0, 9), (1, 0, 9)]
    assert counted("stays") == counted("returns") == 2


def test_a_group_that_is_ahead_of_the_log_reads_what_comes(settings: Settings) -> None:
    """Its offsets have an epoch, and the brokers say where that has ended.

    If the client has fetched at the offset before that, and was refused, it reads all of the log.
    """
    publish(settings, requests(1, OLD))
    with a_reader(settings, "ahead") as reader:
        read(reader, OLD)
        topic = settings.kafka_prefix + ROOM_RESERVE
        committed = eventually(lambda: committed_with_epoch(reader, topic))
        assert committed is not None
        committed.offset = 100
        reader._consumer.commit(offsets=[committed], asynchronous=False)
    with capture_logs() as logged, a_reader(settings, "ahead") as reader:
        eventually(lambda: reader.batch() or lost(logged), deadline_s=DEADLINE_S)
        new = requests(1_000, NEW)
        publish(settings, new)
        assert read(reader, NEW) == ids(new)
    assert lost(logged) in ([(0, OLD // 3, 99)], [(0, 0, 99)])


def committed_with_epoch(reader: GroupConsumer, topic: str) -> TopicPartition | None:
    """Return where the group stands in partition 0, once that has been committed."""
    reader.batch()
    [committed] = reader._consumer.committed([TopicPartition(topic, 0)], timeout=30)
    epoch: int | None = committed.leader_epoch
    return committed if epoch is not None else None


@contextmanager
def a_reader(settings: Settings, group: str) -> Iterator[GroupConsumer]:
    member = GroupConsumer(settings, group, (ROOM_RESERVE,), Health())
    member.join()
    try:
        yield member
    finally:
        member.leave()


def publish_old(settings: Settings, data: Path) -> dict[Path, int]:
    """Publish ten records to each partition; returns each log, and its size with those that it keeps."""
    old = requests(1, OLD)
    sizes = {}
    for partition, kept in KEPT.items():
        of_partition = [record for record in old if record.partition == partition]
        publish(settings, of_partition[:kept])
        folder = f"kafka-1/records/{settings.kafka_prefix}{ROOM_RESERVE}-{partition}"
        [log] = (data / folder).glob("*.log")
        sizes[log] = log.stat().st_size
        publish(settings, of_partition[kept:])
    return sizes


def read(member: GroupConsumer, count: int) -> list[int]:
    """Read so many messages, and commit them; returns which these are."""
    seen: list[int] = []

    def read_on() -> bool:
        batch = member.batch()
        seen.extend(record_of(message, "").message_id.int for message in batch)
        member.handled(batch)
        return len(seen) >= count

    eventually(read_on, deadline_s=DEADLINE_S)
    return sorted(seen)


def ids(records: Sequence[Record]) -> list[int]:
    return sorted(record.message_id.int for record in records)


def lost(logged: Sequence[MutableMapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Which offsets of which partition are said to be lost."""
    return sorted(
        (said["partition"], said["first_lost_offset"], said["last_lost_offset"])
        for said in logged
        if said["event"] == "log truncated"
    )


def counted(group: str) -> float | None:
    return REGISTRY.get_sample_value("innbox_consumer_truncations_total", {"group": group})
