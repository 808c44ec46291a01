"""What brokers refuse, and keys that are blocked by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import confluent_kafka.admin as kafka_admin
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from domain.messages import ROOM_RESERVE
from outbox import Message, admin, reader
from outbox.admin import SkippedMessage, skipped_messages
from outbox.reader import BlockedKey
from runtime.settings import Settings
from tests.support.relays import a_message, append
from tests.support.waiting import eventually

BYTES_MAX = 20_000


def refuse_above(settings: Settings, bytes_max: int = BYTES_MAX, topic: str = ROOM_RESERVE) -> None:
    """Have the brokers refuse records, or batches of them, that are larger."""
    # Brokers tell of a change before they act on it, but go on to the next one only when they do.
    configure_topic(settings, topic, "max.message.bytes", bytes_max)
    configure_topic(settings, topic, "index.interval.bytes", bytes_max)


def configure_topic(settings: Settings, topic: str, entry_name: str, value: int) -> None:
    """Set one of a topic's properties, and wait until the brokers say so."""
    client: Any = kafka_admin.AdminClient(settings.kafka)
    kinds: Any = kafka_admin  # its types are incomplete
    entry = kinds.ConfigEntry(
        entry_name, str(value), incremental_operation=kinds.AlterConfigOpType.SET
    )
    name = settings.kafka_prefix + topic
    resource = kinds.ConfigResource(kinds.ConfigResource.Type.TOPIC, name)
    change = kinds.ConfigResource(
        kinds.ConfigResource.Type.TOPIC, name, incremental_configs=[entry]
    )
    client.incremental_alter_configs([change])[change].result(10)

    def is_known() -> bool:
        found = client.describe_configs([resource])[resource].result(10)
        return bool(found[entry_name].value == str(value))

    eventually(is_known)


def forbid_writes(settings: Settings, topic: str = ROOM_RESERVE) -> None:
    """Grant something else of a topic: with that, brokers that mind rights allow nothing more."""
    kinds: Any = kafka_admin  # its types are incomplete
    only = kinds.AclBinding(
        *_resource(settings, topic),
        "User:ANONYMOUS",
        "*",
        kinds.AclOperation.DESCRIBE,
        kinds.AclPermissionType.ALLOW,
    )
    client = kinds.AdminClient(settings.kafka)
    client.create_acls([only])[only].result(30)


def allow_all(settings: Settings, topic: str = ROOM_RESERVE) -> None:
    """Take back what `forbid_writes` has done."""
    kinds: Any = kafka_admin
    every = kinds.AclBindingFilter(
        *_resource(settings, topic),
        None,
        None,
        kinds.AclOperation.ANY,
        kinds.AclPermissionType.ANY,
    )
    client = kinds.AdminClient(settings.kafka)
    client.delete_acls([every])[every].result(30)


def _resource(settings: Settings, topic: str) -> tuple[Any, ...]:
    kinds: Any = kafka_admin
    name = settings.kafka_prefix + topic
    return (kinds.ResourceType.TOPIC, name, kinds.ResourcePatternType.LITERAL)


def accept_all(settings: Settings) -> None:
    refuse_above(settings, 1_000_000)


def a_refused(key: str = "7", value_bytes: int = BYTES_MAX + 10_000) -> Message:
    return a_message(key, b"\x00\xff" * (value_bytes // 2))


def blocked(engine: Engine) -> list[BlockedKey]:
    with engine.connect() as connection:
        return reader.blocked_keys(connection)


def is_blocked(engine: Engine, key: str = "7", attempts: int = 1) -> bool:
    return any(
        (found.key, found.state, found.attempts) == (key, "BLOCKED", attempts)
        for found in blocked(engine)
    )


def retry(engine: Engine, *keys: str) -> None:
    with engine.begin() as connection:
        for key in keys:
            admin.retry_key(connection, key)


def skip(engine: Engine, key: str = "7") -> None:
    with engine.begin() as connection:
        admin.skip_message(connection, key, skipped_by="ann@office", note="a test")


def skipped(engine: Engine) -> list[SkippedMessage]:
    with engine.connect() as connection:
        return skipped_messages(connection)


def blocked_metric() -> float:
    return REGISTRY.get_sample_value("innbox_relay_blocked_keys") or 0.0


@contextmanager
def traffic(engine: Engine, keys: int = 5, at_once: int = 200) -> Iterator[list[Message]]:
    """Somebody who appends without end; the messages, when the block ends."""
    done, written = Event(), list[Message]()

    def write() -> None:
        while not done.is_set():
            messages = [a_message(f"traffic-{number % keys}") for number in range(at_once)]
            append(engine, *messages)
            written.extend(messages)

    thread = Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        done.set()
        thread.join()
