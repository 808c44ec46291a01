"""The outbox's cost to its database: write-ahead log for each event, dead rows, queries while idle.

The baseline of the log is a plain table of the same messages with a primary key and nothing else: the
minimum that any outbox writes, before it marks or deletes a row as sent.
"""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, make_url, text

import outbox
from domain import messages
from innbox_process.commands import CommandError, Report, reported
from innbox_process.database import pooled_engine
from ops.bench.backlog import KEYS
from ops.bench.environment import a_relay, a_stay, scratch, session
from ops.bench.measure import Comparison, Measured
from ops.topics import create_topics
from runtime.settings import Settings

PER_BATCH = 100
WITHIN_S = 60.0
# A session's counts reach the statistics within 10 s of idling; by then a relay polls at its slowest.
SETTLED_S = 12.0

_BARE = text("""
    CREATE TABLE bench_bare (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id uuid NOT NULL,
        topic text NOT NULL, key text NOT NULL, value bytea NOT NULL, headers json NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
""")
_COPY = text("""
    INSERT INTO bench_bare (message_id, topic, key, value, headers)
    SELECT message_id, topic, key, value, headers FROM outbox.message
    WHERE position >= :first AND position < :end
""")
_WAL = text("SELECT CAST(pg_current_wal_insert_lsn() - '0/0' AS bigint)")
_UNRELAYED = text("""
    SELECT count(*) FROM outbox.message, outbox.shard WHERE NOT pg_visible_in_snapshot(xid, snapshot)
""")
_ROWS = text("""
    SELECT CAST(sum(n_tup_ins) AS bigint) AS inserted, CAST(sum(n_dead_tup) AS bigint) AS dead,
           CAST(sum(n_tup_upd + n_tup_del) AS bigint) AS touched
    FROM pg_stat_all_tables
    WHERE relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'outbox.message'::regclass)
""")
_TRANSACTIONS = text("""
    SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = :database
""")


def bench_cost(
    settings: Settings, logs: Path, report: Report, *, count: int, idle_s: float, rounds: int
) -> Measured:
    """Append one by one and in batches, then beside a relay, and then leave the relay idle."""
    single, batched = [], []
    with scratch(settings) as own:
        create_topics(own)
        with session(own) as connection:
            connection.execute(_BARE)
            for _ in reported(report, "writing, one by one and in batches", range(rounds + 1)):
                single.append(_bytes_per_event(connection, own, count, 1))
                batched.append(_bytes_per_event(connection, own, count, PER_BATCH))
            with a_relay(own, logs):
                figures = _relayed(connection, own, count)
                appended = (2 * rounds + 3) * count
                figures |= _rows(connection, appended)
                figures["idle_queries_per_s"] = _idle(settings, own, idle_s, report)
    # The first round has empty tables, and does not count.
    one, many = (
        Comparison("outbox.message", "bare table", "bytes", *zip(*found[1:], strict=True))
        for found in (single, batched)
    )
    figures |= {"messages": count, "per_batch": PER_BATCH, "idle_s": idle_s}
    return Measured("cost", {"wal_one_by_one": one, "wal_in_batches": many}, figures=figures)


def _bytes_per_event(
    connection: Connection, settings: Settings, count: int, at_once: int
) -> tuple[float, float]:
    """Return the bytes of appending, and of copying the same messages to the plain table."""
    first = connection.execute(
        text("SELECT coalesce(max(position), 0) + 1 FROM outbox.message")
    ).scalar_one()
    began_at = connection.execute(_WAL).scalar_one()
    engine = pooled_engine(settings, settings.database_url, "bench-writer")
    _append(engine, count, at_once)
    engine.dispose()
    appended_at = connection.execute(_WAL).scalar_one()
    for start in range(first, first + count, at_once):
        connection.execute(_COPY, {"first": start, "end": start + at_once})
    copied_at = connection.execute(_WAL).scalar_one()
    return (appended_at - began_at) / count, (copied_at - appended_at) / count


def _append(engine: Engine, count: int, at_once: int) -> None:
    for start in range(0, count, at_once):
        numbers = range(start, start + at_once)
        with engine.begin() as connection:
            batch = [messages.room_reserve(n + 1, n % KEYS + 1, a_stay()) for n in numbers]
            outbox.append(connection, batch)


def _relayed(connection: Connection, settings: Settings, count: int) -> dict[str, Any]:
    """Append one by one while the relay publishes and saves its cursors."""
    _wait_until_relayed(connection)
    began_at = connection.execute(_WAL).scalar_one()
    engine = pooled_engine(settings, settings.database_url, "bench-writer")
    with closing(outbox.install_doorbell(engine, interval_ms=settings.doorbell_ms)):
        _append(engine, count, 1)
    engine.dispose()
    _wait_until_relayed(connection)
    wal = connection.execute(_WAL).scalar_one() - began_at
    return {"wal_bytes_per_relayed_event": wal / count}


def _wait_until_relayed(connection: Connection) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while unrelayed := connection.execute(_UNRELAYED).scalar_one():
        if time.monotonic() > ends_at:
            raise CommandError(f"{unrelayed} messages were not relayed within {WITHIN_S:.0f} s")
        time.sleep(0.05)  # between two queries


def _rows(connection: Connection, appended: int) -> dict[str, Any]:
    """Return the updated and dead rows of the log, once the statistics have counted all its rows."""
    ends_at = time.monotonic() + WITHIN_S
    while (found := connection.execute(_ROWS).one()).inserted < appended:
        if time.monotonic() > ends_at:
            raise CommandError(
                f"the statistics counted {found.inserted} of {appended} messages within "
                f"{WITHIN_S:.0f} s"
            )
        time.sleep(0.2)  # between two queries
    return {"messages_appended": appended, "rows_touched": found.touched, "dead_rows": found.dead}


def _idle(settings: Settings, own: Settings, idle_s: float, report: Report) -> float:
    """Return the transactions per second, each of one query, of a database that only the relay uses."""
    values = {"database": make_url(own.database_url).database}
    with session(settings) as elsewhere:
        report("leaving the relay idle", 0, None)
        time.sleep(min(SETTLED_S, idle_s))
        before, began_at = elsewhere.execute(_TRANSACTIONS, values).scalar_one(), time.monotonic()
        time.sleep(idle_s)  # the measured time
        after, ended_at = elsewhere.execute(_TRANSACTIONS, values).scalar_one(), time.monotonic()
    return float(after - before) / (ended_at - began_at)
