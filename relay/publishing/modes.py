"""Which producer and which store of cursors a shard gets: those of the mode that is configured."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from innbox_process.health import Health
from outbox.reader import Shard
from relay.config import RelayConfig
from relay.publishing.cursor_store import KafkaCursors, PostgresCursors
from relay.publishing.kafka_cursors import identity
from relay.publishing.producer import MessageProducer
from relay.publishing.transactional import TransactionalProducer


@dataclass(frozen=True, slots=True)
class Publisher:
    """A producer of messages, and the store that says from where to which place they took the shard.

    After any exception of either it is of no more use: another one begins anew at the kept cursor.
    """

    producer: MessageProducer
    cursors: PostgresCursors | KafkaCursors


@contextmanager
def publisher_for(
    connection: Connection, shard: Shard, config: RelayConfig, health: Health
) -> Iterator[Publisher]:
    """Make a publisher for one owner's time with a shard; `cursors.resume` comes next."""
    kafka, prefix, part = config.kafka, config.topic_prefix, shard_part(shard)
    if config.mode != "exactly-once":
        with MessageProducer(kafka, health, part=part, topic_prefix=prefix) as plain:
            yield Publisher(plain, PostgresCursors(shard, plain))
        return
    name, topic = identity(connection, shard), config.cursor_topic_name
    with TransactionalProducer(
        kafka, health, name, part=part, cursor_topic=topic, topic_prefix=prefix
    ) as producer:
        yield Publisher(producer, KafkaCursors(connection, shard, producer, config, name))


def shard_part(shard: Shard) -> str:
    """Name a shard as the health of the process does."""
    return f"shard {shard.id}"
