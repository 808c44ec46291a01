"""Retention: a partition a day, made ahead of time and dropped whole once nobody needs it.

Nothing here waits for a lock, and so makes writers wait behind it, for longer than `LOCK_TIMEOUT_MS`: a
lock that is not had by then raises, the caller's transaction is rolled back, and the next run tries
again. Run in READ COMMITTED: what is decided under a lock must see what was committed before it.

A message that found no partition of its day is a stray in the default one. It is moved, under its own
transaction id and position, when the day's partition is made; no reader sees it twice or not at all.

Why DROP and not DETACH CONCURRENTLY: Postgres refuses the latter beside a default partition, which is
what keeps an insert from being refused. It would wait, too, for every transaction that uses the log,
however long, and half detached meanwhile; a DROP gives up in time and leaves nothing behind.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection, text

LOCK_TIMEOUT_MS = 100
# Moving the strays of days takes longer than an engine's ordinary statements may.
_STATEMENT_TIMEOUT_S = 300
# A process that is paused while it holds these locks would hold up everybody.
_IDLE_TIMEOUT_S = 5

_COLUMNS = "position, xid, message_id, topic, key, value, headers, created_at"

PARTITIONS = text("""
    SELECT child.relname FROM pg_inherits
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'outbox.message'::regclass
    ORDER BY child.relname
""")

# The visibility is asked of the cursor proper: within a backlog, what is published beyond it counts as
# not yet relayed. Without any shard, as in the midst of a restore, nothing is known to be relayed.
HAS_NONE_UNSEEN = """
    SELECT EXISTS (SELECT FROM outbox.shard) AND NOT EXISTS (
        SELECT FROM outbox.{partition} AS message
        JOIN outbox.shard ON key_hash >= hash_from AND key_hash < hash_to
        WHERE xid >= pg_snapshot_xmin(snapshot) AND NOT pg_visible_in_snapshot(xid, snapshot)
    )
"""
# What a blocked key holds back is not relayed either, wherever its shard's cursor is. One statement asks
# for both, since a key is blocked or freed together with the move of its shard.
IS_RELAYED = f"""
    {HAS_NONE_UNSEEN} AND NOT EXISTS (
        SELECT FROM outbox.{{partition}} AS message JOIN outbox.blocked_key USING (key)
        WHERE xid >= pg_snapshot_xmin(snapshot) AND NOT pg_visible_in_snapshot(xid, snapshot)
    )
"""

# Asked under the lock, so it must be quick: whether anything has been committed since the question above.
IS_UNTOUCHED = """
    SELECT NOT EXISTS (
        SELECT FROM outbox.{partition}
        WHERE xid >= pg_snapshot_xmin(CAST(:since AS pg_snapshot))
          AND NOT pg_visible_in_snapshot(xid, CAST(:since AS pg_snapshot))
    )
"""

# The days of rows that came when their partition had not been made, and will not be by itself.
STRAY_DAYS = text("""
    SELECT DISTINCT CAST(created_at AT TIME ZONE 'UTC' AS date) AS day FROM outbox.message_default
    WHERE created_at < :before ORDER BY day LIMIT 31
""")

MOVE_STRAYS = f"""
    WITH moved AS (
        DELETE FROM outbox.message_default
        WHERE created_at >= :low AND created_at < :high RETURNING {_COLUMNS}
    )
    INSERT INTO outbox.{{partition}} ({_COLUMNS}) SELECT {_COLUMNS} FROM moved
"""


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """What a run of `retire_partitions` did, by partition name."""

    dropped: list[str]
    kept_unrelayed: list[str]


def partitions(connection: Connection) -> dict[date, str]:
    """Return the daily partitions, by day (UTC)."""
    names = connection.execute(PARTITIONS).scalars()
    return {day: name for name in names if (day := _day(name))}


def ensure_partitions(connection: Connection, today: date, *, days_ahead: int) -> list[str]:
    """Make the partitions of today and the days ahead that are missing; returns their names."""
    return _make_missing(connection, _days(today, days_ahead), today)


def settle_strays(connection: Connection, today: date) -> list[str]:
    """Make the partitions of past days that strays are found of; returns their names.

    Or retention would never drop them: by itself, nobody makes a partition for a day that is over.
    """
    days = connection.execute(STRAY_DAYS, {"before": _starts_at(today)}).scalars()
    return _make_missing(connection, days, today)


def retire_partitions(
    connection: Connection, now: datetime, *, retention_days: float
) -> PartitionChanges:
    """Drop the partitions that ended before the retention and are wholly relayed."""
    _bound_waiting(connection)
    ends_before = now - timedelta(days=retention_days)
    past = [
        name
        for day, name in partitions(connection).items()
        if _starts_at(day + timedelta(days=1)) <= ends_before
    ]
    # Without a lock, as it may take long; what is relayed stays so.
    since = connection.execute(text("SELECT pg_current_snapshot()::text")).scalar_one()
    relayed = [name for name in past if _holds(connection, IS_RELAYED, name)]
    dropped = _drop_unless_written(connection, relayed, since) if relayed else []
    return PartitionChanges(dropped, [name for name in past if name not in dropped])


def _drop_unless_written(connection: Connection, names: list[str], since: str) -> list[str]:
    """Drop partitions, but for those that a transaction from their day has since committed into.

    The log is locked before its parts, as readers and writers do it: the other way round, each that came
    between the two locks would wait for us and we for it, and under load somebody always does.
    """
    tables = [f"outbox.{name}" for name in names]
    locks = f"LOCK TABLE ONLY outbox.message, {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"
    connection.execute(text(locks))
    dropped = [name for name in names if _holds(connection, IS_UNTOUCHED, name, since=since)]
    if dropped:
        connection.execute(text(f"DROP TABLE {', '.join(f'outbox.{name}' for name in dropped)}"))
    return dropped


def _holds(connection: Connection, condition: str, partition: str, **values: str) -> bool:
    asked = text(condition.format(partition=partition))
    return bool(connection.execute(asked, values).scalar_one())


def _make_missing(connection: Connection, days: Iterable[date], today: date) -> list[str]:
    existing = partitions(connection)
    missing = [day for day in days if day not in existing]
    if missing:
        _bound_waiting(connection)
    return [_make_partition(connection, day, has_begun=day <= today) for day in missing]


def _make_partition(connection: Connection, day: date, *, has_begun: bool) -> str:
    """Build aside and attach: creating in place would lock out every writer."""
    name = f"message_{day:%Y%m%d}"
    low, high = _starts_at(day), _starts_at(day + timedelta(days=1))
    connection.execute(text(f"CREATE TABLE outbox.{name} (LIKE outbox.message INCLUDING ALL)"))
    move, bounds = text(MOVE_STRAYS.format(partition=name)), {"low": low, "high": high}
    strays = connection.execute(move, bounds).rowcount
    if strays or has_begun:
        # Statements that have listed the partitions, and then wait for the default one until we commit,
        # would not learn of the new one: a writer's row would be refused, and a reader would miss the
        # strays for good. So they must wait before that, at the log itself.
        connection.execute(text("LOCK TABLE ONLY outbox.message IN ACCESS EXCLUSIVE MODE"))
        connection.execute(move, bounds)  # few: those that came while most were moved
    connection.execute(
        text(f"""
            ALTER TABLE outbox.message ATTACH PARTITION outbox.{name}
            FOR VALUES FROM ('{low.isoformat()}') TO ('{high.isoformat()}')
        """)
    )
    return name


def _bound_waiting(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT_S}s'"))
    idle = f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'"
    connection.execute(text(idle))


def _days(today: date, days_ahead: int) -> Iterator[date]:
    return (today + timedelta(days=ahead) for ahead in range(days_ahead + 1))


def _starts_at(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _day(partition: str) -> date | None:
    if match := re.fullmatch(r"message_(\d{4})(\d{2})(\d{2})", partition):
        return date(*map(int, match.groups()))
    return None
