"""Reading the topics as any outsider would: committed records only, whole, leaving no trace.

Partitions are assigned, not subscribed to, and no offset is committed, so no consumer group notices. The
end of each partition is asked for when reading begins, which must be after the databases' snapshots:
whatever a snapshot shows as relayed was acknowledged earlier, and so lies before that end.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # OffsetSpec is public all the same
    AdminClient,
    OffsetSpec,
)

from consumers.records import record_of
from ops.progress import Report
from ops.verify.ledger import Ledger, fields
from runtime.settings import Settings

RECORDS_PER_READ = 5_000
# No record and no end of a partition for this long: the brokers are away, or too slow to wait for.
SILENCE_S_MAX = 30.0
# How long brokers may take to be found at all.
CONTACT_S_MAX = 10.0

# A partition of a topic, by its full name.
Place = tuple[str, int]

_BEGIN: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_END: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class _Reading:
    """How far the topics are read, and when the first record of each partition was published."""

    begins: dict[Place, int]
    ends: dict[Place, int]
    first_at: dict[Place, float] = field(default_factory=dict)
    done: int = 0

    @property
    def total(self) -> int:
        return sum(self.ends[place] - self.begins[place] for place in self.ends)


def read_topics(ledger: Ledger, settings: Settings, topics: Iterable[str], report: Report) -> None:
    """Enter every record up to the present ends. A topic that does not exist has no record."""
    admin = AdminClient(settings.kafka | {"log_level": 0})  # failures are raised, and said once
    places = _places(admin, {settings.kafka_prefix + topic for topic in topics})
    reading = _Reading(_offsets(admin, places, _BEGIN), _offsets(admin, places, _END))
    prefix = settings.kafka_prefix
    consumer = Consumer(_properties(settings))
    try:
        ledger.insert("record", _records(consumer, reading, prefix, report))
    finally:
        consumer.close()
    # Asked again: what was trimmed during the reading is trimmed.
    begins = _offsets(admin, places, _BEGIN)
    ledger.insert("partition", _partitions(reading, begins, prefix))


def _properties(settings: Settings) -> dict[str, Any]:
    return {
        **settings.kafka,
        "log_level": 0,
        # The client demands a name; nothing ever joins this group.
        "group.id": f"{settings.kafka_prefix}innbox-verify",
        "isolation.level": "read_committed",
        # Retention may overtake the reading: then the oldest record there is is the next one.
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Tells the end apart where the last offsets are markers of transactions, not records.
        "enable.partition.eof": True,
        # Bounds what is fetched ahead of us.
        "queued.max.messages.kbytes": 32_768,
    }


def _places(admin: AdminClient, names: set[str]) -> list[Place]:
    # All topics and not each by name: asking for one that is missing might create it.
    existing = admin.list_topics(timeout=CONTACT_S_MAX).topics
    return [
        (name, number) for name in names & existing.keys() for number in existing[name].partitions
    ]


def _offsets(admin: AdminClient, places: Iterable[Place], which: OffsetSpec) -> dict[Place, int]:
    """One question for all partitions: the consumer's own takes a quarter of a second for each."""
    asked = admin.list_offsets(
        {TopicPartition(*place): which for place in places},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=SILENCE_S_MAX,
    )
    return {(one.topic, one.partition): answer.result().offset for one, answer in asked.items()}


def _records(
    consumer: Consumer, reading: _Reading, prefix: str, report: Report
) -> Iterator[tuple[Any, ...]]:
    unfinished = {place for place, end in reading.ends.items() if end > reading.begins[place]}
    consumer.assign([TopicPartition(*place, reading.begins[place]) for place in unfinished])
    while unfinished:
        for message in _next(consumer):
            place = (message.topic(), message.partition())
            if _is_last(message, reading.ends):
                unfinished.discard(place)
            if message.error() is None and message.offset() < reading.ends[place]:
                reading.first_at.setdefault(place, message.timestamp()[1] / 1000)
                reading.done += 1
                yield _record(message, prefix)
        report("records", reading.done, reading.total)


def _next(consumer: Consumer) -> list[Any]:
    """Wait for one, then take what else is there: waiting for many would wait out the timeout."""
    first = consumer.poll(SILENCE_S_MAX)
    if first is None:
        raise TimeoutError(f"nothing was read from Kafka for {SILENCE_S_MAX:.0f} seconds")

    return [first, *consumer.consume(RECORDS_PER_READ, 0)]


def _is_last(message: Any, ends: dict[Place, int]) -> bool:  # noqa: ANN401 - maybe an event
    """Whether the partition is now read up to its end; raises what went wrong."""
    error = message.error()
    if error is None:
        return bool(message.offset() >= ends[message.topic(), message.partition()] - 1)
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
        return True
    raise KafkaException(error)


def _record(message: Any, prefix: str) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    record = record_of(message, prefix)
    return (
        record.topic,
        record.partition,
        record.offset,
        _text(record.key),
        str(record.message_id),  # the id that our consumers take for the message's
        record.headers.get("ce_source"),
        _seconds(record.headers.get("ce_time")),
        record.value,
        *fields(record.value),
    )


def _partitions(
    reading: _Reading, begins: dict[Place, int], prefix: str
) -> Iterator[tuple[Any, ...]]:
    for place, end in reading.ends.items():
        name, number = place
        yield name.removeprefix(prefix), number, begins[place], end, reading.first_at.get(place)


def _text(value: bytes | None) -> str | None:
    return value.decode(errors="replace") if value is not None else None


def _seconds(instant: str | None) -> float | None:
    """An instant of the headers; None for whatever is not one."""
    try:
        return datetime.fromisoformat(instant).timestamp() if instant else None
    except ValueError:
        return None
