"""The relay's drain rate beside the bare producer's.

The baseline is the shortest honest loop: the same messages, with the same headers as the same objects,
already in memory, through a producer of the same configuration, flushed once. Nothing that reads from
a database can beat it; the ratio says what the outbox costs.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from confluent_kafka import Producer
from sqlalchemy import Connection, Engine, create_engine, text

import outbox
from domain import messages
from domain.messages import ROOM_RESERVE
from domain.stay import Stay
from ops.bench.measure import Comparison, rate, scratch
from ops.progress import Report
from ops.topics import create_topics
from relay.loop import relay_once
from relay.publisher import Publisher, producer_properties
from runtime.database import direct_engine
from runtime.health import Health
from runtime.settings import Settings

FILL_BATCH = 1_000
KEYS = 5_000


def a_stay(opens_on: date) -> Stay:
    """A stay like most: three nights."""
    return Stay(opens_on, opens_on + timedelta(days=3))


def bench_relay(
    settings: Settings, stay: Stay, report: Report, *, backlog: int, rounds: int
) -> Comparison:
    """Drain a backlog again and again, in turn with the bare loop."""
    with scratch(settings) as ours:
        create_topics(ours)
        _fill(create_engine(ours.database_url), stay, backlog, report)
        engine = direct_engine(ours, ours.database_url, "bench")
        with engine.connect() as connection:
            outbox.prepare_session(connection)
            connection.execute(text("VACUUM ANALYZE outbox.message"))
            rows = _all_rows(connection, backlog)
            return _compare(connection, ours, rows, report, rounds)


def _compare(
    connection: Connection,
    settings: Settings,
    rows: Sequence[tuple[Any, ...]],
    report: Report,
    rounds: int,
) -> Comparison:
    relayed, bare = [], []
    for number in range(rounds + 1):
        report("the bare producer, then the relay", number, rounds + 1)
        bare.append(rate(len(rows), lambda: _produce_bare(settings, rows)))
        relayed.append(rate(len(rows), lambda: _drain(connection, settings, len(rows))))
    report("the bare producer, then the relay", rounds + 1, rounds + 1)
    # The first round warms the broker up and does not count.
    return Comparison("relay", "bare producer loop", len(rows), relayed[1:], bare[1:])


def _fill(engine: Engine, stay: Stay, backlog: int, report: Report) -> None:
    for start in range(0, backlog, FILL_BATCH):
        report("filling the outbox", start, backlog)
        with engine.begin() as connection:
            numbers = range(start + 1, min(start + FILL_BATCH, backlog) + 1)
            outbox.append(
                connection,
                [messages.room_reserve(number, number % KEYS + 1, stay) for number in numbers],
            )
    report("filling the outbox", backlog, backlog)
    engine.dispose()


def _all_rows(connection: Connection, backlog: int) -> list[tuple[Any, ...]]:
    (shard,) = outbox.shards(connection)
    rows = outbox.read(connection, shard.cursor, shard.hashes, limit=backlog + 1).rows
    return [(*row[:4], outbox.decode_headers(row[4]), None) for row in rows]


def _produce_bare(settings: Settings, rows: Sequence[tuple[Any, ...]]) -> None:
    producer = Producer(producer_properties(settings.kafka))
    topic = settings.kafka_prefix + ROOM_RESERVE
    for _, _, key, value, headers, _ in rows:
        while True:
            try:
                producer.produce(topic, value, key, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def _drain(connection: Connection, settings: Settings, backlog: int) -> None:
    connection.execute(
        text("""
            UPDATE outbox.shard SET snapshot = '1:1:', batch_snapshot = NULL, position = NULL,
                                    owner = NULL, leased_until = NULL
        """)
    )
    shard = outbox.claim(connection, "bench", lease_s=settings.lease_s)
    assert shard is not None, "a shard of our own database is free"
    with Publisher(settings.kafka, Health(), topic_prefix=settings.kafka_prefix) as publisher:
        relayed = relay_once(connection, shard, publisher, settings, lambda: True)
    assert relayed.messages == backlog, f"relayed {relayed.messages} of {backlog}"
