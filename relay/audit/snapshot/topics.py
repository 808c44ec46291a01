"""Reading the topics as any outsider would: committed records only, whole, leaving no trace.

Partitions are assigned, not subscribed to, and no offset is committed, so no consumer group notices. The
end of each partition is asked for when reading begins, which must be after the databases' snapshots:
whatever a snapshot shows as relayed was acknowledged earlier, and so lies before that end. It is the very
end, and not that of what is committed: what lies behind somebody's open transaction is waited for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from innbox_process.commands import Report
from innbox_process.kafka import BEGINNING, END, OffsetSpec, Place, at_instant, offsets, quiet_admin
from innbox_process.records import Record, record_of
from relay.audit.snapshot import SnapshotDatabase, seconds
from relay.commands.replay import MEND_HEADER, REPLAY_HEADER

RECORDS_PER_READ = 5_000
# No record and no end of a partition for this long: the brokers are away, or too slow to wait for.
SILENCE_S_MAX = 30.0
# How long brokers may take to be found at all.
CONTACT_S_MAX = 10.0

# What a user of the table `record` keeps besides: of a record, and of when it was published.
More = Callable[[Record, float], Sequence[object]]

# The first columns of the table `record`; `run` is the mend or replay that published it, if any.
RECORD_COLUMNS = "topic, partition INTEGER, offset INTEGER, key, source, ce_time, run"
# `begun` is where reading began, `low` where the partition began when it ended.
SCHEMA = "CREATE TABLE partition (topic, partition INTEGER, begun, low, high, first_at);"


def read_topics(
    db: SnapshotDatabase,
    kafka: Mapping[str, Any],
    prefix: str,
    topics: Iterable[str],
    report: Report,
    more: More,
    *,
    since: float | None = None,
) -> None:
    """Enter every record up to the present ends. A topic that does not exist has no record.

    `kafka` are the properties of a client, `prefix` is before every topic. With `since`, from the first
    that was published then; earlier ones may be left out. Fills the tables `record`, whose last columns
    `more` returns, and `partition`.
    """
    admin = quiet_admin(kafka)
    places = _places(admin, {prefix + topic for topic in topics})
    ends = _offsets(admin, places, END)
    starts = _starts(admin, places, ends, since)
    first_at: dict[Place, float] = {}
    consumer = Consumer(_properties(kafka, prefix))
    try:
        db.insert("record", _records(consumer, starts, ends, first_at, prefix, report, more))
    finally:
        consumer.close()
    # Asked again: what was trimmed during the reading is trimmed.
    lows = _offsets(admin, places, BEGINNING)
    partitions = (
        (name.removeprefix(prefix), number, starts[place], lows[place], end, first_at.get(place))
        for place, end in ends.items()
        for name, number in [place]
    )
    db.insert("partition", partitions)


def _properties(kafka: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        **kafka,
        "log_level": 0,
        # The client demands a name; nothing ever joins this group.
        "group.id": f"{prefix}outbox-audit",
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
    return offsets(admin, places, which, timeout_s=SILENCE_S_MAX)


def _starts(
    admin: AdminClient, places: Iterable[Place], ends: dict[Place, int], since: float | None
) -> dict[Place, int]:
    if since is None:
        return _offsets(admin, places, BEGINNING)

    found = _offsets(admin, places, at_instant(since))
    return {place: offset if offset >= 0 else ends[place] for place, offset in found.items()}


def _records(
    consumer: Consumer,
    starts: dict[Place, int],
    ends: dict[Place, int],
    first_at: dict[Place, float],
    prefix: str,
    report: Report,
    more: More,
) -> Iterator[Sequence[object]]:
    """Yield the rows, and enter when the first record of each partition was published."""
    unfinished = {place for place, end in ends.items() if end > starts[place]}
    consumer.assign([TopicPartition(*place, starts[place]) for place in unfinished])
    done, total = 0, sum(ends.values()) - sum(starts.values())
    report("records", done, total)
    while unfinished:
        for message in _next(consumer):
            place = (message.topic(), message.partition())
            if _is_last(message, ends):
                unfinished.discard(place)
            if message.error() is None and message.offset() < ends[place]:
                published_at = message.timestamp()[1] / 1000
                first_at.setdefault(place, published_at)
                done += 1
                record = record_of(message, prefix)
                yield (*_columns(record), *more(record, published_at))
        report("records", done, total)


def _columns(record: Record) -> tuple[object, ...]:
    return (
        record.topic,
        record.partition,
        record.offset,
        record.key.decode(errors="replace") if record.key is not None else None,
        record.headers.get("ce_source"),
        seconds(record.headers.get("ce_time")),
        record.headers.get(MEND_HEADER) or record.headers.get(REPLAY_HEADER),
    )


def _next(consumer: Consumer) -> list[Any]:
    """Wait for one, then take what else is there: waiting for many would wait out the timeout."""
    first = consumer.poll(SILENCE_S_MAX)
    if first is None:
        raise TimeoutError(f"nothing was read from Kafka for {SILENCE_S_MAX:.0f} seconds")

    return [first, *consumer.consume(RECORDS_PER_READ, 0)]


def _is_last(message: Any, ends: dict[Place, int]) -> bool:  # noqa: ANN401 - maybe an event
    """Whether the partition is now read up to its end; raises what went wrong."""
    error, end = message.error(), ends[message.topic(), message.partition()]
    if error is None:
        return bool(message.offset() >= end - 1)
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
        return bool(message.offset() >= end)  # before it: at an open transaction
    raise KafkaException(error)
