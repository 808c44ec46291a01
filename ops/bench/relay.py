"""The relay's drain rate beside that of a bare producer loop.

The baseline is the shortest loop: the same messages, with the same headers as the same objects, already
in memory, through a producer of the same configuration, flushed once. No program that reads from a
database can be faster; the ratio is the cost of the outbox.

A backlog is made by the server itself, and drained again and again from the same place. Its rows are what
`outbox.append` makes of a `room-reserve` message, header by header; a test holds the two side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from confluent_kafka import Producer
from sqlalchemy import Connection, text

from domain.messages import ROOM_RESERVE
from innbox_process.database import direct_engine
from innbox_process.health import Health
from ops.bench.environment import Run, scratch, session
from ops.bench.measure import Comparison, Measured, bounded, in_turn, rate, relay_mode, with_rounds
from ops.relay_config import relay_config
from outbox import reader
from outbox.reader import Cursor
from relay.publishing.cursor_store import publisher_for
from relay.publishing.producer import producer_properties
from relay.step import Work, relay_once
from runtime.settings import RelayMode, Settings

KEYS = 5_000
PER_TRANSACTION = 1_000

FILL = text("""
    INSERT INTO outbox.message (message_id, topic, key, value, headers, created_at)
    SELECT id, 'room-reserve', room,
        convert_to(format(
            '{"reservationId":%s,"roomId":%s,'
            '"checkInDate":"2030-01-10","checkOutDate":"2030-01-13"}', number, room
        ), 'UTF8'),
        CAST(format(
            '{"ce_specversion":"1.0","ce_id":"%s","ce_type":"innbox.room.reserve.v1",'
            '"ce_source":"/innbox/reservations","ce_time":"%s",'
            '"content-type":"application/json"}',
            id, to_char(appended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24\\:MI\\:SS.US+00\\:00')
        ) AS json),
        appended_at
    FROM (
        SELECT number, CAST(number % :keys + 1 AS text) AS room, gen_random_uuid() AS id,
               coalesce(CAST(:appended_at AS timestamptz), now()) AS appended_at
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS number
    ) AS made
    ORDER BY number
""")


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


def fill(
    connection: Connection,
    count: int,
    *,
    first: int = 1,
    appended_at: datetime | None = None,
    report: Callable[[int], None] = lambda _done: None,
) -> None:
    """Append messages, a thousand a transaction; `appended_at` is now, unless it is given."""
    connection.execute(text("SET synchronous_commit = off"))  # the filling is not what is measured
    for start in range(first, first + count, PER_TRANSACTION):
        report(start - first)
        last = min(start + PER_TRANSACTION, first + count) - 1
        values = {"first": start, "last": last, "keys": KEYS, "appended_at": appended_at}
        connection.execute(FILL, values)
    report(count)


def behind_all(connection: Connection) -> Cursor:
    """Return the cursor of a relay that has published all that is committed now."""
    reader.prepare_session(connection)
    snapshot = connection.execute(text("SELECT CAST(pg_current_snapshot() AS text)")).scalar_one()
    return reader.read(connection, Cursor(snapshot), reader.ALL_KEYS, limit=1).cursor


def drain_rate(settings: Settings, since: Cursor, backlog: int) -> float:
    """Relay all that comes after a cursor, in this process, and return the messages per second."""
    engine, config = direct_engine(settings, settings.database_url, "bench"), relay_config(settings)
    with engine.connect() as connection:
        reader.prepare_session(connection)
        shard = reader.claim(connection, "bench", lease_s=settings.lease_s)
        assert shard is not None, "a shard of our own database is free"
        # The number of a cursor only grows, wherever the cursor is.
        cursor = replace(since, number=shard.cursor.number + 1)
        saved = reader.save(connection, shard, cursor, lease_s=settings.lease_s)
        with publisher_for(connection, saved, config, Health()) as publisher:
            own = publisher.cursors.resume(lambda: True)
            work = Work(connection, publisher, config, lambda: True)

            def drain() -> None:
                relayed = relay_once(work, own)
                assert relayed.messages == backlog, f"relayed {relayed.messages} of {backlog}"

            found = rate(backlog, drain)
        reader.release_shard(connection, shard)
    return found
