"""Topics: created on the brokers with our settings, then declared to the outboxes.

In that order: a declared topic is one that a broker takes messages for. Never by the brokers'
auto-creation, which knows neither the partitions nor the replication that the order and the safety of
messages rest on.
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
from innbox_process.kafka import quiet_admin
from relay.config import CURSOR_TOPIC
from runtime.settings import Context, Settings

_TIMEOUT_S = 10.0

_OF_CONTEXT: dict[Context, tuple[str, ...]] = {
    "reservations": (ROOM_RESERVE, ROOM_CANCEL),
    "rooms": (RESERVATION_RESULT,),
}

# Of each cursor only the last matters; small segments, as what is in the newest one is not compacted.
_OF_CURSORS = {
    "cleanup.policy": "compact",
    "segment.bytes": str(8 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is on the brokers now, by its full name."""

    name: str
    partitions: int
    replication: int
    created: bool


def create_topics(settings: Settings) -> list[Topic]:
    """Create the topics that are missing and declare them all; repeatable.

    An existing topic is left as it is, since more partitions would break the order of its keys. Raises
    `KafkaException` if the brokers refuse or cannot be reached.
    """
    admin = quiet_admin(settings.kafka)
    wanted = {
        **{settings.kafka_prefix + topic: _of_messages(settings) for topic in TOPICS},
        settings.kafka_prefix + CURSOR_TOPIC: _OF_CURSORS,
    }
    created = {name for name, config in wanted.items() if _create(admin, name, settings, config)}
    declare(settings.databases, prefix=settings.kafka_prefix)
    return [_described(admin, name, created=name in created) for name in wanted]


def declare(urls: Iterable[str], *, prefix: str = "") -> None:
    """Tell the outboxes of these databases which topics may be appended to."""
    for url in urls:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            outbox.declare_topics(connection, dict.fromkeys(TOPICS, VALUE_BYTES_MAX), prefix=prefix)


def topics_of(settings: Settings, context: Context) -> tuple[str, ...]:
    """Return the topics that the outbox of a context's database is for."""
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
        # One replica may be away; with three, losing an acknowledged message takes two.
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
    """Describe a topic once every partition has a leader; a new one takes a moment to be known."""
    ends_at = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends_at:
        metadata = admin.list_topics(timeout=_TIMEOUT_S).topics.get(name)
        partitions = list(metadata.partitions.values()) if metadata else []
        if partitions and all(partition.leader >= 0 for partition in partitions):
            return Topic(name, len(partitions), len(partitions[0].replicas), created=created)
        time.sleep(0.05)  # between two looks
    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{name} has no leaders"))
