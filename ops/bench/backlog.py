"""A backlog: made by the server, and drained by a relay, repeatedly from the same cursor.

The rows equal those that `outbox.append` makes of a `room-reserve` message; a test compares them.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, text

import outbox
from ops.bench.measure import rate
from outbox import Cursor
from relay.loop import relay_once
from relay.publishers import publisher_for
from runtime.database import direct_engine
from runtime.health import Health
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
    """Append messages, a thousand a transaction; `appended_at` is now by default."""
    connection.execute(text("SET synchronous_commit = off"))  # filling is not measured
    for start in range(first, first + count, PER_TRANSACTION):
        report(start - first)
        last = min(start + PER_TRANSACTION, first + count) - 1
        values = {"first": start, "last": last, "keys": KEYS, "appended_at": appended_at}
        connection.execute(FILL, values)
    report(count)


def behind_all(connection: Connection) -> Cursor:
    """Return the cursor of a relay that has published every message committed by now."""
    outbox.prepare_session(connection)
    snapshot = connection.execute(text("SELECT CAST(pg_current_snapshot() AS text)")).scalar_one()
    return outbox.read(connection, Cursor(snapshot), outbox.WHOLE, limit=1).cursor


def drain_rate(settings: Settings, since: Cursor, backlog: int) -> float:
    """Relay all messages after a cursor, in this process, and return the messages per second."""
    engine = direct_engine(settings, settings.database_url, "bench")
    with engine.connect() as connection:
        outbox.prepare_session(connection)
        shard = outbox.claim(connection, "bench", lease_s=settings.lease_s)
        assert shard is not None, "the benchmark's own database has a free shard"
        # The number of a cursor only grows, also when the cursor goes back.
        cursor = replace(since, number=shard.cursor.number + 1)
        saved = outbox.save(connection, shard, cursor, lease_s=settings.lease_s)
        with publisher_for(connection, saved, settings, Health()) as publisher:
            own = publisher.resume(connection, saved, lambda: True, lease_s=settings.lease_s)

            def drain() -> None:
                relayed = relay_once(connection, own, publisher, settings, lambda: True)
                assert relayed.messages == backlog, f"relayed {relayed.messages} of {backlog}"

            found = rate(backlog, drain)
        outbox.release(connection, shard)
    return found
