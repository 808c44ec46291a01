"""Topics: created on the brokers with the settings' partitions and replication, then declared.

In that order: brokers accept messages for a declared topic. Auto-creation by the brokers is not used: it
knows neither the partitions nor the replication that the order and the safety of messages depend on.
"""

import time
from collections.abc import Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import outbox
from domain.messages import (
    RESERVATION_RESULT,
    ROOM_CANCEL,
    ROOM_RESERVE,
    TOPICS,
    VALUE_BYTES_MAX,
)
from relay.cursors import CURSOR_TOPIC
from runtime.settings import Context, Settings

_TIMEOUT_S = 10.0

_OF_CONTEXT: dict[Context, tuple[str, ...]] = {
    "reservations": (ROOM_RESERVE, ROOM_CANCEL),
    "rooms": (RESERVATION_RESULT,),
}

# Only the latest cursor matters; small segments, as Kafka does not compact the newest one.
_OF_CURSORS = {
    "cleanup.policy": "compact",
    "segment.bytes": str(8 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is on the brokers now, with its full name."""

    name: str
    partitions: int
    replication: int
    created: bool


def create_topics(settings: Settings) -> list[Topic]:
    """Create the missing topics and declare them all; repeatable.

    An existing topic is left as it is, since more partitions would break the order of its keys. Raises
    `KafkaException` if the brokers refuse or cannot be reached.
    """
    # The client would log each failed connection, several times a second; the exception is enough.
    admin = AdminClient(settings.kafka | {"log_level": 0})
    wanted = {
        **{settings.kafka_prefix + topic: _of_messages(settings) for topic in TOPICS},
        settings.kafka_prefix + CURSOR_TOPIC: _OF_CURSORS,
    }
    created = {name for name, config in wanted.items() if _create(admin, name, settings, config)}
    declare(settings.databases, prefix=settings.kafka_prefix)
    return [_described(admin, name, created=name in created) for name in wanted]


def declare(urls: Iterable[str], *, prefix: str = "") -> None:
    """Declare the topics in the outboxes of these databases."""
    for url in urls:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            outbox.declare_topics(connection, dict.fromkeys(TOPICS, VALUE_BYTES_MAX), prefix=prefix)


def topics_of(settings: Settings, context: Context) -> tuple[str, ...]:
    """Return the topics that the outbox of a context's database publishes to."""
    contexts = settings.databases[settings.database_of(context)]
    return tuple(topic for one in contexts for topic in _OF_CONTEXT[one])


def _of_messages(settings: Settings) -> dict[str, str]:
    return {
        "retention.ms": str(settings.topic_retention_hours * 3_600_000),
        "cleanup.policy": "delete",
        "max.message.bytes": str(outbox.record_bytes_max(VALUE_BYTES_MAX)),
    }


def _create(admin: AdminClient, name: str, settings: Settings, config: dict[str, str]) -> bool:
    of_cursors = config is _OF_CURSORS
    topic = NewTopic(
        name,
        num_partitions=1 if of_cursors else settings.topic_partitions,
        replication_factor=settings.topic_replication,
        # One replica may be down; of three, two must fail to lose an acknowledged message.
        config=config | {"min.insync.replicas": str(max(1, settings.topic_replication - 1))},
    )
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
    """Describe a topic once every partition has a leader, which takes a moment for a new topic."""
    ends_at = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends_at:
        metadata = admin.list_topics(timeout=_TIMEOUT_S).topics.get(name)
        partitions = list(metadata.partitions.values()) if metadata else []
        if partitions and all(partition.leader >= 0 for partition in partitions):
            return Topic(name, len(partitions), len(partitions[0].replicas), created=created)
        time.sleep(0.05)  # between two requests
    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{name} has no leaders"))
