"""Partitions: one a day, made ahead of time, and dropped whole once published and past retention.

Nothing here waits for a lock, and so makes writers wait behind it, for longer than `LOCK_TIMEOUT_MS`: a
lock that is not had by then raises, the caller's transaction is rolled back, and the next run tries
again. Run in READ COMMITTED: what is decided under a lock must see what was committed before it.

A message that found no partition of its day is in the default one. It is moved, under its own
transaction id and position, when the day's partition is made; no reader sees it twice or not at all.

What is done under a lock is done by functions of the schema (version 4), so that the role that runs this
need not own the log. Why DROP and not DETACH CONCURRENTLY: Postgres refuses the latter beside a default
partition, which is what keeps an insert from being refused. It would wait, too, for every transaction
that uses the log, half detached meanwhile; a DROP gives up in time and leaves nothing behind.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection, text

LOCK_TIMEOUT_MS = 100
# To move the rows of days may take longer than an engine allows ordinary statements.
_STATEMENT_TIMEOUT_S = 300
# A process that is paused while it holds these locks would hold up everybody.
_IDLE_TIMEOUT_S = 5

PARTITIONS = text(r"""
    SELECT child.relname, to_date(substring(child.relname FROM '^message_(\d{8})$'), 'YYYYMMDD') AS day
    FROM pg_inherits
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'outbox.message'::regclass
    ORDER BY child.relname
""")

# The visibility is asked of the cursor proper: within a backlog, what is published beyond it counts as
# not yet relayed. Without any shard, as in the midst of a restore, nothing is known to be relayed.
#
# What a blocked key holds back is not relayed either, wherever its shard's cursor is. One statement asks
# for both, since a key is blocked or freed together with the move of its shard.
IS_RELAYED = text("""
    SELECT EXISTS (SELECT FROM outbox.shard) AND NOT EXISTS (
        SELECT FROM outbox.message
        JOIN outbox.shard ON key_hash >= hash_from AND key_hash < hash_to
        WHERE created_at >= :low AND created_at < :high
          AND xid >= pg_snapshot_xmin(snapshot) AND NOT pg_visible_in_snapshot(xid, snapshot)
    ) AND NOT EXISTS (
        SELECT FROM outbox.message JOIN outbox.blocked_key USING (key)
        WHERE created_at >= :low AND created_at < :high
          AND xid >= pg_snapshot_xmin(snapshot) AND NOT pg_visible_in_snapshot(xid, snapshot)
    )
""")

# The days of rows that came when their partition had not been made, and will not be by itself.
STRAY_DAYS = text("""
    SELECT DISTINCT CAST(created_at AT TIME ZONE 'UTC' AS date) AS day FROM outbox.message_default
    WHERE created_at < :before ORDER BY day LIMIT 31
""")

MAKE = text("SELECT outbox.make_partition(:day)")
# All of them, but for those that a transaction from their day has since committed into.
DROP_UNLESS_WRITTEN = text("SELECT outbox.drop_partitions(:days, CAST(:since AS pg_snapshot))")


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """What a run of `retire_partitions` did, by partition name."""

    dropped: list[str]
    kept_unrelayed: list[str]


def partitions(connection: Connection) -> dict[date, str]:
    """Return the daily partitions, by day (UTC)."""
    return {row.day: row.relname for row in connection.execute(PARTITIONS) if row.day}


def ensure_partitions(connection: Connection, today: date, *, days_ahead: int) -> list[str]:
    """Make the partitions of today and the days ahead that are missing; returns their names."""
    days = (today + timedelta(days=ahead) for ahead in range(days_ahead + 1))
    return _make_missing(connection, days)


def move_from_default_partition(connection: Connection, today: date) -> list[str]:
    """Make the partitions of past days that rows in the default partition are of; returns their names.

    Without this, retention would never drop them: partitions are otherwise made for days to come only.
    """
    days = connection.execute(STRAY_DAYS, {"before": _starts_at(today)}).scalars()
    return _make_missing(connection, days)


def retire_partitions(
    connection: Connection, now: datetime, *, retention_days: float
) -> PartitionChanges:
    """Drop the partitions that ended before the retention and are wholly relayed."""
    _bound_waiting(connection)
    ends_before = now - timedelta(days=retention_days)
    days = partitions(connection).items()
    past = {day: name for day, name in days if _ends_at(day) <= ends_before}
    # Without a lock, as it may take long; what is relayed stays so.
    since = connection.execute(text("SELECT pg_current_snapshot()::text")).scalar_one()
    relayed = [day for day in past if _is_relayed(connection, day)]
    dropped: list[str] = []
    if relayed:
        values = {"days": relayed, "since": since}
        dropped = connection.execute(DROP_UNLESS_WRITTEN, values).scalar_one()
    return PartitionChanges(dropped, [name for name in past.values() if name not in dropped])


def _is_relayed(connection: Connection, day: date) -> bool:
    bounds = {"low": _starts_at(day), "high": _ends_at(day)}
    return bool(connection.execute(IS_RELAYED, bounds).scalar_one())


def _make_missing(connection: Connection, days: Iterable[date]) -> list[str]:
    existing = partitions(connection)
    missing = [day for day in days if day not in existing]
    if missing:
        _bound_waiting(connection)
    return [connection.execute(MAKE, {"day": day}).scalar_one() for day in missing]


def _bound_waiting(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT_S}s'"))
    idle = f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'"
    connection.execute(text(idle))


def _starts_at(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _ends_at(day: date) -> datetime:
    return _starts_at(day + timedelta(days=1))
