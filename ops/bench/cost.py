"""The outbox's cost to its database: write-ahead log for each event, dead rows, queries while idle.

The baseline of the log is a plain table of the same messages with a primary key and nothing else: the
minimum that any outbox writes, before it marks or deletes a row as sent.
"""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, make_url, text

import outbox
from innbox_process.commands import Report
from ops.bench.environment import Run, a_relay, scratch, session, wait_for_all
from ops.bench.measure import Comparison, Measured, bounded, in_turn, with_rounds
from ops.bench.writers import an_event, writing
from runtime.settings import Settings

PER_BATCH = 100
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


@bounded("--messages", 100, 1_000_000, 2_000, into="count")
@bounded("--idle", 0.1, 3_600, 60, into="idle_s")
@with_rounds
def bench_cost(run: Run, *, count: int, idle_s: float, rounds: int) -> Measured:
    """Measure the database's cost: WAL for each event, dead rows, queries of an idle relay.

    The ratio is the WAL of a plain table of the same messages to the WAL of the outbox.

    \b
    innbox bench cost
    innbox bench cost --idle 300 --json
    """
    with scratch(run.settings) as own, session(own) as connection:
        connection.execute(_BARE)
        # The first round has empty tables, and does not count.
        ways = {
            "one by one": lambda: _bytes_per_event(connection, own, count, 1),
            "in batches": lambda: _bytes_per_event(connection, own, count, PER_BATCH),
        }
        found = in_turn(run.report, "writing", rounds, ways)
        with a_relay(own, run.logs):
            _wait_until_relayed(connection)
            wal_bytes = _wal_bytes(connection, lambda: _append_and_relay(connection, own, count))
            figures = {
                "wal_bytes_per_relayed_event": wal_bytes / count,
                **_rows(connection, appended=(2 * rounds + 3) * count),
                "idle_queries_per_s": _idle(run.settings, own, idle_s, run.report),
            }
    one, many = (
        Comparison("outbox.message", "bare table", "bytes", *zip(*found[name], strict=True))
        for name in ("one by one", "in batches")
    )
    figures |= {"messages": count, "per_batch": PER_BATCH, "idle_s": idle_s}
    return Measured("cost", {"wal_one_by_one": one, "wal_in_batches": many}, figures=figures)


def _bytes_per_event(
    connection: Connection, settings: Settings, count: int, at_once: int
) -> tuple[float, float]:
    """Return the bytes of appending, and of copying the same messages to the plain table."""
    first = connection.scalar(text("SELECT coalesce(max(position), 0) + 1 FROM outbox.message"))

    def copy() -> None:
        for start in range(first, first + count, at_once):
            connection.execute(_COPY, {"first": start, "end": start + at_once})

    appended = _wal_bytes(connection, lambda: _append(settings, count, at_once, rings=False))
    return appended / count, _wal_bytes(connection, copy) / count


def _append_and_relay(connection: Connection, settings: Settings, count: int) -> None:
    """Append one by one while the relay publishes and saves its cursors."""
    _append(settings, count, 1, rings=True)
    _wait_until_relayed(connection)


def _wal_bytes(connection: Connection, work: Callable[[], None]) -> int:
    began_at = connection.execute(_WAL).scalar_one()
    work()
    return int(connection.execute(_WAL).scalar_one() - began_at)


def _append(settings: Settings, count: int, at_once: int, *, rings: bool) -> None:
    with writing(settings, rings=rings) as engine:
        for start in range(0, count, at_once):
            with engine.begin() as connection:
                outbox.append(connection, map(an_event, range(start, start + at_once)))


def _wait_until_relayed(connection: Connection) -> None:
    wait_for_all(lambda: connection.scalar(_UNRELAYED) or 0, "messages were not relayed")


def _rows(connection: Connection, appended: int) -> dict[str, Any]:
    """Return the updated and dead rows of the log, once the statistics have counted all its rows."""
    wait_for_all(
        lambda: max(0, appended - connection.execute(_ROWS).one().inserted),
        f"of {appended} messages were not counted by the statistics",
    )
    found = connection.execute(_ROWS).one()
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
