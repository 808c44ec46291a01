"""Reading how far consumer groups are: what a group's offset has passed is consumed, or was skipped.

Read them before the databases: a consumer commits its offsets after its effects, so whatever an offset
has passed by then, the databases show as done.
"""

from collections.abc import Iterable, Iterator, Mapping

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from innbox_process.kafka import quiet_admin
from relay.audit.snapshot.database import SnapshotDatabase
from relay.audit.snapshot.topics import CONTACT_S_MAX, SILENCE_S_MAX
from runtime.settings import Settings

# Records of a partition before `offset` are behind its group.
SCHEMA = "CREATE TABLE passed (topic, partition INTEGER, offset INTEGER);"


def read_offsets(
    db: SnapshotDatabase, settings: Settings, groups: Mapping[str, Iterable[str]]
) -> None:
    """Enter the committed offsets of these groups, each in the topics that it reads."""
    admin = quiet_admin(settings.kafka)
    admin.list_topics(timeout=CONTACT_S_MAX)  # brokers that are away are not waited for as long
    for group, topics in groups.items():
        names = {settings.kafka_prefix + topic for topic in topics}
        db.insert("passed", _passed(admin, settings.kafka_prefix, group, names))


def _passed(
    admin: AdminClient, prefix: str, group: str, names: set[str]
) -> Iterator[tuple[str, int, int]]:
    asked = ConsumerGroupTopicPartitions(prefix + group)  # of every partition that it has one for
    [answer] = admin.list_consumer_group_offsets([asked], request_timeout=SILENCE_S_MAX).values()
    for place in answer.result().topic_partitions:
        if place.topic in names and place.offset >= 0:
            yield place.topic.removeprefix(prefix), place.partition, place.offset
