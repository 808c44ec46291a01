"""Reading topics as an outsider does: from the beginning, only what is committed."""

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from runtime.settings import Settings

DEADLINE_S = 30.0


def read_topics(
    settings: Settings,
    topics: Iterable[str],
    *,
    until: Callable[[list[Message]], bool],
    deadline_s: float = DEADLINE_S,
) -> list[Message]:
    """Read all partitions from their beginning until the condition holds; fails at the deadline."""
    consumer = Consumer(
        settings.kafka
        | {
            "group.id": "outsider",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    found: list[Message] = []
    ends_at = time.monotonic() + deadline_s
    try:
        consumer.assign(list(_partitions(consumer, settings, topics)))
        while not until(found):
            assert time.monotonic() < ends_at, f"only {len(found)} messages by the deadline"
            found += [message for message in consumer.consume(1_000, 0.1) if not message.error()]
    finally:
        consumer.close()
    return found


def read_to_the_ends(settings: Settings, topics: Iterable[str]) -> list[Message]:
    """Read all partitions from their beginning to where they end now."""
    properties = {"group.id": "outsider", "enable.partition.eof": True, "fetch.wait.max.ms": 10}
    found: list[Message] = []
    ended: set[tuple[str | None, int | None]] = set()
    with closing(Consumer(settings.kafka | properties)) as consumer:
        places = list(_partitions(consumer, settings, topics))
        consumer.assign(places)
        while len(ended) < len(places):
            message = consumer.poll(30)
            assert message is not None, "the brokers say nothing"
            if message.error():
                ended.add((message.topic(), message.partition()))
            else:
                found.append(message)
    return found


def _partitions(
    consumer: Consumer, settings: Settings, topics: Iterable[str]
) -> Iterable[TopicPartition]:
    metadata = consumer.list_topics(timeout=10).topics
    for topic in topics:
        name = settings.kafka_prefix + topic
        for partition in metadata[name].partitions:
            yield TopicPartition(name, partition, OFFSET_BEGINNING)


def header(message: Message, name: str) -> str:
    headers: dict[str, Any] = dict(message.headers() or [])
    value: bytes = headers[name]
    return value.decode()


def ids(messages: Iterable[Message]) -> list[str]:
    return [header(message, "ce_id") for message in messages]
