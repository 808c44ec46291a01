"""Which publisher a shard gets: that of the mode which the settings name."""

from sqlalchemy import Connection

from outbox.reader import Shard
from relay.cursors import identity
from relay.exactly_once import ExactlyOncePublisher
from relay.publisher import Publisher
from runtime.health import Health, HealthOf
from runtime.settings import Settings


def publisher_for(
    connection: Connection, shard: Shard, settings: Settings, health: Health | HealthOf
) -> Publisher:
    """Make a publisher for one owner's time with a shard; `resume` comes next."""
    prefix = settings.kafka_prefix
    if settings.relay_mode == "exactly-once":
        name = identity(connection, shard)
        return ExactlyOncePublisher(settings.kafka, health, name, topic_prefix=prefix)
    return Publisher(settings.kafka, health, topic_prefix=prefix)
