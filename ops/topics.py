"""innbox's topics: created on the brokers with its settings, then declared to the outboxes."""

import outbox
import relay.topics
from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE, TOPICS, VALUE_BYTES_MAX
from innbox_process.database import direct_engine
from relay.config import CURSOR_TOPIC
from relay.topics import Topic, of_cursors, of_messages
from runtime.settings import Context, Settings

_OF_CONTEXT: dict[Context, tuple[str, ...]] = {
    "reservations": (ROOM_RESERVE, ROOM_CANCEL),
    "rooms": (RESERVATION_RESULT,),
}


def create_topics(settings: Settings) -> list[Topic]:
    """Create the topics that are missing and declare them all; repeatable, as `relay.topics` says."""
    ours = of_messages(
        settings.topic_partitions,
        settings.topic_replication,
        retention_hours=settings.topic_retention_hours,
        value_bytes_max=VALUE_BYTES_MAX,
    )
    wanted = dict.fromkeys((settings.kafka_prefix + topic for topic in TOPICS), ours)
    cursors = {settings.kafka_prefix + CURSOR_TOPIC: of_cursors(settings.topic_replication)}
    found = relay.topics.create_topics(settings.kafka, wanted | cursors)
    declare(settings)
    return found


def declare(settings: Settings) -> None:
    """Tell each database's outbox which of innbox's topics may be appended to."""
    limits = dict.fromkeys(TOPICS, VALUE_BYTES_MAX)
    for url in settings.databases:
        engine = direct_engine(settings, url, "topics")
        with engine.begin() as connection:
            outbox.declare_topics(connection, limits, prefix=settings.kafka_prefix)
        engine.dispose()


def topics_of(settings: Settings, context: Context) -> tuple[str, ...]:
    """Return the topics that the outbox of a context's database is for."""
    contexts = settings.databases[settings.database_of(context)]
    return tuple(topic for one in contexts for topic in _OF_CONTEXT[one])
