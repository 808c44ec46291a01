"""Relays for tests: in a thread, or in a process of their own that can be killed."""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from confluent_kafka import Message as Record
from prometheus_client import REGISTRY
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

import outbox
from domain.messages import ROOM_RESERVE, TOPICS
from innbox_process.database import direct_engine
from innbox_process.health import Health
from ops.relay_config import relay_config
from outbox import Message, reader
from outbox.reader import Shard
from relay.relay import Relay
from runtime.settings import Settings
from tests.support.kafka_reader import header, read_to_the_ends, read_topics
from tests.support.process_faults import SETTINGS
from tests.support.waiting import DEADLINE_S


def a_message(key: str = "7", value: bytes = b"{}", topic: str = ROOM_RESERVE) -> Message:
    return Message(topic, key, "test", value)


def messages_of_keys(count: int, keys: int = 5) -> list[Message]:
    return [a_message(key=f"key-{number % keys}") for number in range(count)]


def ids_of(messages: Iterable[Message]) -> list[str]:
    return [str(message.message_id) for message in messages]


def append(engine: Engine, *messages: Message) -> None:
    with engine.begin() as connection:
        outbox.append(connection, messages)


@dataclass
class Running:
    """A relay in a thread."""

    stop: Event = field(default_factory=Event)
    health: Health = field(default_factory=lambda: Health(parts=("database", "kafka")))


@contextmanager
def a_relay(settings: Settings) -> Iterator[Running]:
    """A relay in a thread, stopped and joined at the end."""
    engine = direct_engine(settings, settings.database_url, "relay", "innbox_relay")
    running = Running()
    relay = Relay(engine, relay_config(settings), running.health, running.stop)
    thread = Thread(target=relay.run)
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join(timeout=DEADLINE_S)
        engine.dispose()
        assert not thread.is_alive()


@contextmanager
def a_relay_process(name: str, settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child of `tests.support.process_faults`, killed at the end if it still runs."""
    environment = os.environ | {SETTINGS: settings.model_dump_json()}
    command = [sys.executable, "-m", "tests.support.process_faults", name]
    with log.open("wb") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def the_shard(engine: Engine) -> Shard:
    with engine.connect() as connection:
        (shard,) = reader.shards(connection)
    return shard


def claimed(engine: Engine) -> Shard:
    """The shard, in the hand of a relay that is only a name."""
    with engine.begin() as connection:
        shard = reader.claim(connection, "a relay", lease_s=60)
    assert shard
    return shard


def owner_pid(engine: Engine) -> int | None:
    """The process that owns the shard, from the owner's name, `host:pid:…`."""
    owner = the_shard(engine).owner
    return int(owner.split(":")[1]) if owner else None


def lost_leases() -> float:
    return REGISTRY.get_sample_value("innbox_relay_leases_lost_total") or 0.0


def is_wholly_relayed(engine: Engine) -> bool:
    """Whether the saved cursor has passed every committed message."""
    shard = the_shard(engine)
    with engine.connect() as connection:
        unseen = connection.execute(
            text(
                "SELECT count(*) FROM outbox.message WHERE NOT pg_visible_in_snapshot(xid, :seen)"
            ),
            {"seen": shard.cursor.snapshot},
        )
        return unseen.scalar_one() == 0 and shard.cursor.batch_snapshot is None


def published(settings: Settings, messages: Iterable[Message]) -> list[Record]:
    """Read until all of these are in Kafka, whatever else is; repetitions included."""
    wanted = {str(message.message_id) for message in messages}
    return read_topics(
        settings, TOPICS, until=lambda found: wanted <= {header(each, "ce_id") for each in found}
    )


def first_deliveries(records: Iterable[Record]) -> dict[str, list[str]]:
    """The ids of each key, in the order in which they first arrived."""
    by_key: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        key = record.key()
        assert isinstance(key, bytes)
        by_key[key.decode()][header(record, "ce_id")] = None
    return {key: list(found) for key, found in by_key.items()}


def assert_read_once(settings: Settings, messages: list[Message]) -> None:
    """Each message is read once, those of a key in their order, and nothing else is."""
    records = committed(settings, messages)
    assert first_deliveries(records) == appended(messages)
    assert len(records) == len(messages)


def committed(settings: Settings, messages: Iterable[Message]) -> list[Record]:
    """All that a reader of committed records sees, up to the present ends; these messages are there.

    The brokers acknowledge a transaction's end before readers see it in every partition.
    """
    published(settings, messages)
    return read_to_the_ends(settings, TOPICS)


def appended(messages: Iterable[Message]) -> dict[str, list[str]]:
    """The ids of each key, in the order in which they were appended."""
    by_key = defaultdict(list)
    for message in messages:
        by_key[message.key].append(str(message.message_id))
    return dict(by_key)


def autocommit(engine: Engine) -> Connection:
    """A connection of its own, as a relay has it."""
    return create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()


def read_all(engine: Engine) -> dict[str, list[str]]:
    """The ids of each key that lie beyond the saved cursor, in the order of readings of a few."""
    found = defaultdict[str, list[str]](list)
    with autocommit(engine) as connection:
        reader.prepare_session(connection)
        for shard in reader.shards(connection):
            reading = reader.read(connection, shard.cursor, shard.hashes, limit=7)
            while reading.rows:
                for _, _, key, _, headers, _ in reading.rows:
                    found[key].append(reader.decode_headers(headers)["ce_id"])
                reading = reader.read(connection, reading.cursor, shard.hashes, limit=7)
    return dict(found)
