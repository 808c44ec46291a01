"""An outbox and its topics for tests of the audit: relayed by hand, so that all may go wrong."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Producer
from sqlalchemy import Connection, Engine, text

from domain.messages import ROOM_RESERVE
from innbox_process.database import direct_engine
from ops.relay_config import audit_sources
from outbox import Message, reader
from relay.audit import Audit, TopicAudit, Window, audit
from runtime.settings import Settings
from tests.support.relays import append

Publish = Callable[[Sequence[Any]], object]


class System:
    """An outbox and its topics, relayed step by step as the test says."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings

    def append(self, *messages: Message) -> None:
        append(self.engine, *messages)

    def relay(self, publish: Publish | None = None, *, limit: int = 1_000) -> None:
        """Publish what is unread, as it is or in the test's own way, and save the cursor."""
        with self.owning() as (connection, shard):
            reading = reader.read(connection, shard.cursor, shard.hashes, limit=limit)
            (publish or self.produce)(reading.rows)
            reader.save(connection, shard, reading.cursor, lease_s=60)

    @contextmanager
    def owning(self) -> Iterator[tuple[Connection, reader.Shard]]:
        url = self.engine.url.render_as_string(hide_password=False)
        with direct_engine(self.settings, url, "relay", "innbox_relay").connect() as connection:
            reader.prepare_session(connection)
            shard = reader.claim(connection, "test", lease_s=60)
            assert shard
            yield connection, shard
            reader.release_shard(connection, shard)

    def produce(self, rows: Sequence[Any], partition: int = -1) -> None:
        """Publish rows in the order in which they are given, partitioned as the relay does."""
        producer = Producer(self.settings.kafka | {"partitioner": "murmur2_random"})
        for _, topic, key, value, headers, *_ in rows:
            name, decoded = self.settings.kafka_prefix + topic, reader.decode_headers(headers)
            producer.produce(name, value, key, partition, headers=decoded)  # type: ignore[arg-type]
            assert producer.flush(30) == 0

    def produce_backwards(self, rows: Sequence[Any]) -> None:
        self.produce(list(reversed(rows)))

    def sql(self, statement: str, **values: object) -> Any:
        """Do by hand what no code of ours does."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.scalar() if result.returns_rows else None

    def audit(self, window: Window | None = None, **options: Any) -> Audit:
        sources = audit_sources(self.settings, options.pop("context", None))
        return audit(sources, window or Window(), lambda *_: None, **options)


def of(found: Audit, topic: str = ROOM_RESERVE) -> TopicAudit:
    return next(one for one in found.topics if one.topic == topic)


def named(found: TopicAudit, kind: str) -> list[str]:
    return [entry["message_id"] for entry in found.found.get(kind, [])]


def lose(_rows: Sequence[Any]) -> None:
    """Publish nothing, though the cursor goes on."""
