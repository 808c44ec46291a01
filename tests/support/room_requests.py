"""Requests for rooms by the dozen: how far they are read, and that each has its effect once."""

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

from consumers.dead_letters import open_letters
from domain.messages import ROOM_RESERVE, ROOMS_GROUP
from innbox_process.records import Record
from runtime.settings import Settings
from tests.support.saga import a_record, a_reserve, allocations, causes, overheld, taken


def requests(first: int, count: int) -> list[Record]:
    """Reserves of as many reservations, spread over the three partitions."""
    return [
        a_record(a_reserve(number, number), partition=number % 3)
        for number in range(first, first + count)
    ]


def committed(settings: Settings) -> int:
    """How many records the group's offsets have behind them."""
    admin = AdminClient(settings.kafka)
    group = settings.kafka_prefix + ROOMS_GROUP
    topic = settings.kafka_prefix + ROOM_RESERVE
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, part) for part in range(3)])
    offsets = admin.list_consumer_group_offsets([asked])[group].result()
    return sum(max(0, place.offset) for place in offsets.topic_partitions)


def held(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM rooms.allocation")) or 0)


def assert_effects_once(engine: Engine, count: int) -> None:
    """One allocation and one answer for each request, all nights right, nothing set aside."""
    assert list(allocations(engine).values()) == ["HELD"] * count
    assert set(taken(engine).values()) == {count}
    assert len(causes(engine)) == len(set(causes(engine))) == count
    with engine.connect() as connection:
        assert not overheld(connection)
        assert not open_letters(connection)
