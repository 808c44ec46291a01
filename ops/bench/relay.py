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
from ops.bench.backlog import behind_all, drain_rate, fill
from ops.bench.environment import Run, scratch, session
from ops.bench.measure import Comparison, Measured, bounded, in_turn, rate, relay_mode, with_rounds
from outbox import reader
from outbox.reader import Cursor
from relay.publishing.producer import producer_properties
from runtime.settings import RelayMode, Settings


@bounded("--backlog", 1_000, 5_000_000, 500_000)
@relay_mode
@with_rounds
def bench_relay(run: Run, *, backlog: int, rounds: int, mode: RelayMode) -> Measured:
    """Drain a backlog with one relay, beside the bare producer loop with the same headers.

    \b
    innbox bench relay                     about two minutes
    innbox bench relay --backlog 100000 --json
    """
    with scratch(run.settings.model_copy(update={"relay_mode": mode})) as own:
        with session(own) as connection:
            since = behind_all(connection)
            fill(connection, backlog, report=lambda done: run.report("filling", done, backlog))
            connection.execute(text("VACUUM ANALYZE outbox.message"))
            rows = _in_memory(connection, since, backlog)
        ways = {
            "bare producer loop": lambda: rate(backlog, lambda: _produce_bare(own, rows)),
            "relay": lambda: drain_rate(own, since, backlog),
        }
        rates = in_turn(run.report, "draining", rounds, ways)
    drain = Comparison.of(rates, "relay", "bare producer loop")
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
