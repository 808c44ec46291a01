"""The relay's drain rate beside that of a bare producer loop.

The baseline is the shortest loop: the same messages, with the same headers as the same objects, already
in memory, through a producer of the same configuration, flushed once. No program that reads from a
database can be faster; the ratio is the cost of the outbox.
"""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import Producer
from sqlalchemy import Connection, text

from domain.messages import ROOM_RESERVE
from innbox_process.commands import Report, reported
from ops.bench.backlog import behind_all, drain_rate, fill
from ops.bench.environment import scratch, session
from ops.bench.measure import Comparison, Measured, rate
from ops.topics import create_topics
from outbox import reader
from outbox.reader import Cursor
from relay.publishing.producer import producer_properties
from runtime.settings import RelayMode, Settings


def bench_relay(
    settings: Settings, report: Report, *, backlog: int, rounds: int, mode: RelayMode
) -> Measured:
    """Drain a backlog repeatedly, in turn with the bare loop."""
    relayed, bare = [], []
    with scratch(settings.model_copy(update={"relay_mode": mode})) as own:
        create_topics(own)
        with session(own) as connection:
            since = behind_all(connection)
            fill(connection, backlog, report=lambda done: report("filling", done, backlog))
            connection.execute(text("VACUUM ANALYZE outbox.message"))
            rows = _in_memory(connection, since, backlog)
        for _ in reported(report, "the bare producer, then the relay", range(rounds + 1)):
            bare.append(rate(backlog, lambda: _produce_bare(own, rows)))
            relayed.append(drain_rate(own, since, backlog))
    # The first round warms up and does not count.
    drain = Comparison("relay", "bare producer loop", "per_s", relayed[1:], bare[1:])
    return Measured("relay", {"drain": drain}, figures={"backlog": backlog, "mode": mode})


def _in_memory(connection: Connection, since: Cursor, backlog: int) -> list[tuple[Any, ...]]:
    rows = reader.read(connection, since, reader.ALL_KEYS, limit=backlog + 1).rows
    return [(*row[2:4], reader.decode_headers(row[4])) for row in rows]


def _produce_bare(settings: Settings, rows: Sequence[tuple[Any, ...]]) -> None:
    producer = Producer(producer_properties(settings.kafka))
    topic = settings.kafka_prefix + ROOM_RESERVE
    for key, value, headers in rows:
        while True:
            try:
                producer.produce(topic, value, key, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
