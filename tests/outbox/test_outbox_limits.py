"""What `append` lets in, the brokers take: the largest value with the largest key and headers."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, Producer, admin
from confluent_kafka import Message as Record
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import Connection, Engine, text

import outbox
from domain.messages import ROOM_RESERVE, VALUE_BYTES_MAX
from outbox import HeadersTooLarge, Message, ValueTooLarge, record_bytes_max
from outbox.append import _cloud_event
from outbox.reader import decode_headers
from outbox.topics import HEADERS_BYTES_MAX
from relay.publishing.producer import producer_properties
from runtime.settings import Settings
from tests.support.relays import a_relay, append, published

NOW = "2026-12-24T18:00:00.000000+00:00"

# Above Kafka's default limit, so that ours is the one that counts.
LARGE_VALUE_BYTES_MAX = 1_000_000
TOPIC = "large"

MANY_HEADERS = {f"h{number}": "" for number in range(5_000)}
SHAPES = {
    "a long header": ("7", {}, "h"),
    "a long key": ("k" * 60_000, {}, "h"),
    "many headers": ("7", MANY_HEADERS, "h"),
    "a long name": ("7", {"n" * 60_000: ""}, "h"),
    "much to escape": ("7", {}, '"'),
    "no ASCII": ("ü" * 30_000, {}, "h"),
}


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        outbox.declare_topics(connection, {TOPIC: LARGE_VALUE_BYTES_MAX})
        yield connection


def test_a_maximal_message_is_relayed(settings: Settings, engine: Engine) -> None:
    """To topics as we create them, whatever the brokers' own limit is."""
    message = largest(ROOM_RESERVE, VALUE_BYTES_MAX, "a long header")
    append(engine, message)
    with a_relay(settings):
        (record,) = published(settings, [message])
    assert record.value() == message.value

    kinds: Any = admin  # its types are incomplete
    topic = kinds.ConfigResource("topic", settings.kafka_prefix + ROOM_RESERVE)
    client = AdminClient(settings.kafka)
    limit = client.describe_configs([topic])[topic].result(10)["max.message.bytes"]
    assert (int(limit.value), limit.is_default) == (record_bytes_max(VALUE_BYTES_MAX), False)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_topic_of_the_stated_size_takes_a_maximal_message(
    settings: Settings, connection: Connection, shape: str
) -> None:
    """And nothing larger is let in."""
    message = largest(TOPIC, LARGE_VALUE_BYTES_MAX, shape)
    outbox.append(connection, [message])
    topic = create_topic(settings, record_bytes_max(LARGE_VALUE_BYTES_MAX))
    assert produced(settings, topic, message, sent_headers(connection)) is None

    with pytest.raises(ValueTooLarge):
        outbox.append(connection, [replace(message, value=message.value + b"x")])
    with pytest.raises(HeadersTooLarge):
        outbox.append(connection, [replace(message, headers={**message.headers, "one": "more"})])


def test_a_topic_of_kafkas_own_size_does_not(settings: Settings, connection: Connection) -> None:
    """So the size must be stated; and the test above would notice a smaller one."""
    message = largest(TOPIC, LARGE_VALUE_BYTES_MAX, "a long header")
    outbox.append(connection, [message])
    topic = create_topic(settings, 1_048_588)
    refusal = produced(settings, topic, message, sent_headers(connection))
    assert refusal is not None
    assert refusal.code() == KafkaError.MSG_SIZE_TOO_LARGE


def largest(topic: str, value_bytes: int, shape: str) -> Message:
    """The largest message of a shape; random, since compression must not be what saves it."""
    key, headers, filler = SHAPES[shape]
    message = Message(topic, key, "test", os.urandom(value_bytes), headers={**headers, "fill": ""})
    used = len(key.encode()) + len(_cloud_event(message, NOW, {}).encode())
    count = (HEADERS_BYTES_MAX - used) // (len(msgspec.json.encode(filler)) - 2)
    return replace(message, headers={**headers, "fill": filler * count})


def sent_headers(connection: Connection) -> dict[str, str]:
    return decode_headers(
        connection.execute(text("SELECT headers::text FROM outbox.message")).scalar_one()
    )


def create_topic(settings: Settings, max_message_bytes: int) -> str:
    name = f"{settings.kafka_prefix}large-{max_message_bytes}"
    config = {"max.message.bytes": str(max_message_bytes)}
    topic = NewTopic(name, num_partitions=1, replication_factor=1, config=config)
    client = AdminClient(settings.kafka)  # it must outlive what it is asked for
    client.create_topics([topic])[name].result(10)
    return name


def produced(
    settings: Settings, topic: str, message: Message, headers: Mapping[str, str]
) -> KafkaError | None:
    """Publish as the relay does, but with no limit of the client's own; returns what was refused."""
    refused: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _record: Record) -> None:
        if error:
            refused.append(error)

    # A refusal would be fatal to a producer that guarantees no gaps, and this one ends here anyway.
    ours = {"message.max.bytes": 10_000_000, "enable.gapless.guarantee": False, "log_level": 0}
    producer = Producer(producer_properties(settings.kafka) | ours)
    producer.produce(
        topic, message.value, message.key, headers=dict(headers), on_delivery=on_delivery
    )
    assert producer.flush(10) == 0
    return refused[0] if refused else None
