"""Which producer and which store of cursors a shard gets: those of the mode that is configured."""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from innbox_process.health import Health, HealthOf
from outbox.reader import Shard
from relay.config import RelayConfig
from relay.publishing.cursor_store import CursorStore, KafkaCursors, PostgresCursors
from relay.publishing.kafka_cursors import identity
from relay.publishing.producer import MessageProducer, changeable
from relay.publishing.transactional import TransactionalProducer


@dataclass(frozen=True, slots=True)
class Publisher:
    """A producer of messages, and the store that says from where to which place they took the shard.

    After any exception of either it is of no more use: another one begins anew at the kept cursor.
    """

    producer: MessageProducer
    cursors: CursorStore

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.producer.__exit__(kind, error, trace)


def publisher_for(
    connection: Connection, shard: Shard, config: RelayConfig, health: Health | HealthOf
) -> Publisher:
    """Make a publisher for one owner's time with a shard; `cursors.resume` comes next."""
    if config.mode != "exactly-once":
        plain = MessageProducer(config.kafka, health, topic_prefix=config.topic_prefix)
        return Publisher(plain, PostgresCursors(shard, plain))
    name, topic = identity(connection, shard), config.cursor_topic_name
    producer = TransactionalProducer(
        config.kafka, health, name, cursor_topic=topic, topic_prefix=config.topic_prefix
    )
    cursors = KafkaCursors(
        connection,
        shard,
        producer,
        changeable(config.kafka),
        topic=topic,
        name=name,
        lease_s=config.lease_s,
    )
    return Publisher(producer, cursors)
