"""I13: what is published is consumed: each record that its group's offset has passed had its effect.

The effect is an allocation, a released one, or a settled reservation, whichever of several records
brought it about; or a dead letter, whatever was decided about it. What no offset has passed is under way.

Read the offsets before the databases: a consumer commits them after its effects, so whatever an offset
has passed by then, the databases show as done.
"""

from collections.abc import Iterator
from contextlib import closing
from time import monotonic, sleep

from confluent_kafka import Consumer, KafkaException, TopicPartition

from domain.messages import (
    RESERVATION_RESULT,
    RESULTS_GROUP,
    ROOM_CANCEL,
    ROOM_RESERVE,
    ROOMS_GROUP,
)
from ops.verify.verdict import Invariant, Remark, lost
from relay.audit.snapshot.topics import CONTACT_S_MAX, SILENCE_S_MAX
from relay.publishing.faults import Fault, fault_of
from runtime.settings import Settings

RETRY_S = 0.2

GROUPS = {ROOMS_GROUP: (ROOM_RESERVE, ROOM_CANCEL), RESULTS_GROUP: (RESERVATION_RESULT,)}

# The rows of `record` that were passed without an effect, and what there is instead.
UNCONSUMED = f"""
    WITH behind AS (
        SELECT record.* FROM record JOIN passed USING (topic, partition)
        WHERE record.offset < passed.offset AND NOT EXISTS (
            SELECT 1 FROM dead_letter AS letter
            WHERE (letter.topic, letter.partition, letter.offset)
                = (record.topic, record.partition, record.offset)
        )
    )
    SELECT behind.*, 'the reservation has no allocation' AS instead
    FROM behind LEFT JOIN allocation USING (reservation_id)
    WHERE topic = '{ROOM_RESERVE}' AND allocation.state IS NULL
    UNION ALL
    SELECT behind.*, 'the allocation is ' || coalesce(allocation.state, 'missing')
    FROM behind LEFT JOIN allocation USING (reservation_id)
    WHERE topic = '{ROOM_CANCEL}' AND allocation.state IS NOT 'RELEASED'
    UNION ALL
    SELECT behind.*, 'the reservation is ' || coalesce(reservation.status, 'missing')
    FROM behind LEFT JOIN reservation ON reservation.id = reservation_id
    WHERE topic = '{RESERVATION_RESULT}' AND (
        reservation.status IS NULL OR reservation.status = 'PENDING'
        OR (behind.status = 'CANCEL' AND reservation.status = 'CANCELLING'))
"""

NOT_YET_CONSUMED = """
    SELECT count(*) FROM record JOIN passed USING (topic, partition)
    WHERE record.offset >= passed.offset
"""

I13 = Invariant(
    "I13",
    "Every published message that its consumers are past had its effect.",
    "records before the offsets of their consumer group, compared with allocations, reservations "
    "and dead letters",
    "SELECT count(*) FROM record JOIN passed USING (topic, partition) "
    "WHERE record.offset < passed.offset",
    (
        lost(f"""
            SELECT printf('record %s of %s, partition %d, offset %d (reservation %s) was passed over: %s',
                          message_id, topic, partition, offset,
                          coalesce(reservation_id, 'unreadable'), instead)
            FROM ({UNCONSUMED})
        """),
    ),
    (Remark(NOT_YET_CONSUMED, "{n} records are published and wait to be consumed"),),
)


def passed_offsets(settings: Settings) -> Iterator[tuple[str, int, int]]:
    """Yield topic, partition and offset: what each consumer group has committed in the topics it reads.

    Asked by a consumer that does not join the group, and not by an administrator: librdkafka 2.16 ends
    the process if a coordinator that is just loading its groups, after a start of its broker, answers
    `ListConsumerGroupOffsets`.
    """
    prefix = settings.kafka_prefix
    for group, topics in GROUPS.items():
        of_group = {"group.id": prefix + group, "log_level": 0}
        with closing(Consumer(settings.kafka | of_group)) as consumer:
            known = consumer.list_topics(timeout=CONTACT_S_MAX).topics
            asked = [
                TopicPartition(name, partition)
                for name in (prefix + topic for topic in topics)
                if name in known
                for partition in known[name].partitions
            ]
            for place in _committed(consumer, asked) if asked else ():
                if place.offset >= 0:
                    yield place.topic.removeprefix(prefix), place.partition, place.offset


def _committed(consumer: Consumer, asked: list[TopicPartition]) -> list[TopicPartition]:
    """Return the group's offsets; a cluster where no group was asked for has no coordinators at first."""
    ends_at = monotonic() + SILENCE_S_MAX
    while True:
        try:
            found = consumer.committed(asked, timeout=SILENCE_S_MAX)
            errors = [place.error for place in found if place.error]
        except KafkaException as error:
            errors = [error.args[0]]
        if not errors:
            return found
        if fault_of(errors[0]) is not Fault.OUTAGE or monotonic() > ends_at:
            raise KafkaException(errors[0])
        sleep(RETRY_S)
