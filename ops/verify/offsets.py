"""Reading how far consumer groups are: what a group's offset has passed is consumed, or was skipped.

Read them before the databases: a consumer commits its offsets after its effects, so whatever an offset
has passed by then, the databases show as done.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

from confluent_kafka import Consumer, KafkaException, TopicPartition

from relay.audit.snapshot import SnapshotDatabase
from relay.audit.snapshot.topics import CONTACT_S_MAX, SILENCE_S_MAX
from runtime.settings import Settings

# Records of a partition before `offset` are behind its group.
SCHEMA = "CREATE TABLE passed (topic, partition INTEGER, offset INTEGER);"


def read_offsets(
    db: SnapshotDatabase, settings: Settings, groups: Mapping[str, Iterable[str]]
) -> None:
    """Enter the committed offsets of these groups, each in the topics that it reads."""
    for group, topics in groups.items():
        names = {settings.kafka_prefix + topic for topic in topics}
        db.insert("passed", _passed(settings, group, names))


def _passed(settings: Settings, group: str, names: set[str]) -> Iterator[tuple[str, int, int]]:
    """Yield topic, partition and offset, asked by a consumer that does not join the group.

    Not by an administrator: librdkafka 2.16 ends the process if a coordinator that is just loading its
    groups, after a start of its broker, answers `ListConsumerGroupOffsets`.
    """
    name = settings.kafka_prefix + group
    with closing(Consumer(settings.kafka | {"group.id": name, "log_level": 0})) as consumer:
        known = consumer.list_topics(timeout=CONTACT_S_MAX).topics
        asked = [
            TopicPartition(topic, partition)
            for topic in sorted(names & known.keys())
            for partition in known[topic].partitions
        ]
        for place in consumer.committed(asked, timeout=SILENCE_S_MAX) if asked else ():
            if place.error:
                raise KafkaException(place.error)
            if place.offset >= 0:
                topic = place.topic.removeprefix(settings.kafka_prefix)
                yield topic, place.partition, place.offset
