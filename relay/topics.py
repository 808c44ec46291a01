"""Topics: created on the brokers, before they are declared to the outboxes whose messages they take.

In that order: a declared topic is one that a broker takes messages for. Never by the brokers'
auto-creation, which knows neither the partitions nor the replication that the order and the safety of
messages rest on.
"""

import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import outbox
from innbox_process.kafka import quiet_admin

_TIMEOUT_S = 10.0

# Of each cursor only the last matters; small segments, as what is in the newest one is not compacted.
OF_CURSORS: dict[str, str] = {
    "cleanup.policy": "compact",
    "segment.bytes": str(8 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a topic is created with, if it is not there yet."""

    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is on the brokers now, by its full name."""

    name: str
    partitions: int
    replication: int
    created: bool


def of_messages(
    partitions: int, replication: int, *, retention_hours: int, value_bytes_max: int
) -> Wanted:
    """Return what a topic of messages is created with: it takes the largest that may be appended."""
    return Wanted(
        partitions,
        replication,
        {
            "retention.ms": str(retention_hours * 3_600_000),
            "cleanup.policy": "delete",
            "max.message.bytes": str(outbox.record_bytes_max(value_bytes_max)),
        },
    )


def of_cursors(replication: int) -> Wanted:
    """Return what the topic of exactly-once mode's cursors is created with."""
    return Wanted(1, replication, OF_CURSORS)


def create_topics(kafka: Mapping[str, Any], wanted: Mapping[str, Wanted]) -> list[Topic]:
    """Create the topics that are missing, by their full names; repeatable.

    An existing topic is left as it is, since more partitions would break the order of its keys. Raises
    `KafkaException` if the brokers refuse or cannot be reached, and `TimeoutError`.
    """
    admin = quiet_admin(kafka)
    created = {name for name, topic in wanted.items() if _create(admin, name, topic)}
    return [_described(admin, name, created=name in created) for name in wanted]


def _create(admin: AdminClient, name: str, wanted: Wanted) -> bool:
    # One replica may be away; with three, losing an acknowledged message takes two.
    in_sync = {"min.insync.replicas": str(max(1, wanted.replication - 1))}
    config = {**wanted.config, **in_sync}
    topic = NewTopic(name, wanted.partitions, wanted.replication, config=config)
    try:
        admin.create_topics([topic], request_timeout=_TIMEOUT_S)[name].result(_TIMEOUT_S + 5)
    except FutureTimeout as error:
        raise TimeoutError(f"the brokers did not create {name} in {_TIMEOUT_S:.0f} s") from error
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def _described(admin: AdminClient, name: str, *, created: bool) -> Topic:
    """Describe a topic once every partition has a leader; a new one takes a moment to be known."""
    ends_at = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends_at:
        metadata = admin.list_topics(timeout=_TIMEOUT_S).topics.get(name)
        partitions = list(metadata.partitions.values()) if metadata else []
        if partitions and all(partition.leader >= 0 for partition in partitions):
            return Topic(name, len(partitions), len(partitions[0].replicas), created=created)
        time.sleep(0.05)  # between two looks
    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{name} has no leaders"))
