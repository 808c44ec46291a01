"""Which publisher a shard gets: that of the mode that is configured."""

from sqlalchemy import Connection

from innbox_process.health import Health, HealthOf
from outbox.reader import Shard
from relay.config import RelayConfig
from relay.publishing.kafka_cursors import identity
from relay.publishing.producer import Publisher
from relay.publishing.transactional import ExactlyOncePublisher


def publisher_for(
    connection: Connection, shard: Shard, config: RelayConfig, health: Health | HealthOf
) -> Publisher:
    """Make a publisher for one owner's time with a shard; `resume` comes next."""
    prefix = config.topic_prefix
    if config.mode == "exactly-once":
        name = identity(connection, shard)
        return ExactlyOncePublisher(
            config.kafka, health, name, cursor_topic=config.cursor_topic, topic_prefix=prefix
        )
    return Publisher(config.kafka, health, topic_prefix=prefix)
