"""A backlog: made by the server itself, and drained by a relay, again and again from the same place.

The rows are what `outbox.append` makes of a `room-reserve` message, header by header; a test holds the
two side by side.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, text

from innbox_process.database import direct_engine
from innbox_process.health import Health
from ops.bench.measure import rate
from ops.relay_config import relay_config
from outbox import reader
from outbox.reader import Cursor
from relay.publishing.cursor_store import publisher_for
from relay.step import Work, relay_once
from runtime.settings import Settings

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
