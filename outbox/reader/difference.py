"""Reading: every message that was committed since a snapshot, once, and in an order that is safe.

A cursor is a Postgres snapshot. A batch is what is visible now and was not visible then, so a
transaction that commits late is never stepped over, whatever its position, and one that is still open
holds up no other. The statement that reads also returns the snapshot it read with: the next cursor.

Order. If two writers of one key hold a common lock from before their appends until their commits, the
first to commit has the lower position, and no snapshot shows the second without the first. Within a
batch messages are sorted by position; so the messages of such a key come in commit order. Not
good enough would be: `position > last` (skips late committers), `xid < xmin` (one open transaction
stops all delivery, and the order of transaction ids is not the order of locks), SKIP LOCKED claims
and the order of a timestamp or UUID.

Floor. A position is drawn after its transaction's id. So if the sequence stood at `floor` before
`next_xid` was the next id to be given out, whatever has that id or a later one lies above the floor, and
is found there in the order of positions, as many as are asked for. What is unseen and has an earlier id
was in flight at the snapshot: few, and found by their ids.

Backlog. A difference larger than the limit is read in parts. The first part fixes the snapshot at which
the difference ends; what was visible in it stays visible, so later parts need no transaction held open
and can be resumed by another process: the cursor is all there is to know.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection

from outbox.reader.cursor import Cursor, HashRange
from outbox.reader.driver import driver, fetch

_XID_FIRST = 3
_XID_32 = 2**32
_LOGGED_AHEAD = 32  # SEQ_LOG_VALS in Postgres' sequence.c

_COLUMNS = "position, topic, key, value, headers"
_OF_SHARD = "key_hash >= %(hash_from)s::bigint AND key_hash < %(hash_to)s::bigint"

# Those that the snapshot names, and those that had an id by then which is not below its end. They are
# listed, not compared, since each scan of each partition costs some microseconds of every batch.
_IN_FLIGHT = """
    SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot)
    UNION ALL
    SELECT xid::text::xid8 FROM generate_series(%(xmax)s::bigint, %(next_xid)s::bigint - 1) AS xid
"""

# The first row is where the difference ends: the floor, how far the next transaction id is from the first
# one, 3, and the snapshot. The sequence is read before the id, as the order of the two matters. What is
# read of it may be too high by the 32 values that Postgres logs ahead: while it writes that record the
# page says how the sequence would stand after a crash, and a scan reads the page without a lock.
_END = f"""
    SELECT greatest(last_value - {_LOGGED_AHEAD + 1}, 0) AS position,
           CASE WHEN last_value IS NOT NULL THEN age('3'::xid)::text END AS topic,
           NULL AS key, NULL AS value, NULL AS headers, pg_current_snapshot()::text
    FROM outbox.message_position_seq
"""

# MATERIALIZED, and visibility as a filter: each half has one selective condition, and no index can take
# the planner away with another one.
UNSEEN_SINCE = f"""
    WITH late AS MATERIALIZED ( -- in flight at the snapshot, committed since
        SELECT {_COLUMNS} FROM outbox.message WHERE xid = ANY (ARRAY({_IN_FLIGHT})) AND {_OF_SHARD}
    )
    {_END}
    UNION ALL
    (SELECT {_COLUMNS}, NULL FROM (
        (SELECT {_COLUMNS} FROM outbox.message
         WHERE position > %(floor)s::bigint
           AND NOT pg_visible_in_snapshot(xid, %(before_next)s::pg_snapshot) AND {_OF_SHARD}
         ORDER BY position LIMIT %(limit)s)
        UNION ALL
        SELECT {_COLUMNS} FROM late
     ) AS unseen
     ORDER BY position
     LIMIT %(limit)s)
"""

# The same, for a difference of moments: few transactions lie between the oldest in flight and the next,
# so one scan of each partition finds them all, in half of the time. `position + 0`: with the bare column
# and a LIMIT the planner may walk the whole log in position order in search of the few rows that pass.
UNSEEN_RECENT = f"""
    {_END}
    UNION ALL
    (SELECT {_COLUMNS}, NULL FROM outbox.message
     WHERE xid >= pg_snapshot_xmin(%(snapshot)s::pg_snapshot)
       AND NOT pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot) AND {_OF_SHARD}
     ORDER BY position + 0
     LIMIT %(limit)s)
"""

# The parts of a backlog lie side by side, late committers among them.
REST_OF_BATCH = f"""
    SELECT {_COLUMNS}, NULL FROM outbox.message
    WHERE position > %(position)s::bigint
      AND NOT pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
      AND pg_visible_in_snapshot(xid, %(batch_snapshot)s::pg_snapshot)
      AND {_OF_SHARD}
    ORDER BY position
    LIMIT %(limit)s
"""
REST_OF_KEY = REST_OF_BATCH.replace(_OF_SHARD, f"{_OF_SHARD} AND key = %(key)s::text")

# Where the parts of a difference begin: at the floor, unless something in flight lies lower.
LOWEST_UNSEEN = f"""
    SELECT least(%(floor)s::bigint, min(position) - 1) FROM outbox.message
    WHERE xid = ANY (ARRAY({_IN_FLIGHT}))
"""

# What is looked at again for nothing, at most, where one scan has to do.
_FEW = 1_000
_MOMENTS_S = 5.0


@dataclass(frozen=True, slots=True)
class ShardBatch:
    """Messages in publishing order, and the cursor to save once all of them are published.

    A row is (position, topic, key, value, headers, None); headers are JSON for `decode_headers`.
    """

    rows: list[tuple[Any, ...]] = field(repr=False)
    cursor: Cursor


def read(connection: Connection, cursor: Cursor, hashes: HashRange, *, limit: int) -> ShardBatch:
    """Read at most `limit` messages after the cursor. Nothing is locked, written or left open.

    No messages means that there is nothing more to read: where a backlog ended with its last part, the
    difference after it is read at once.
    """
    if cursor.batch_snapshot is not None:
        batch = read_batch(connection, cursor, hashes, limit=limit)
        if batch.rows:
            return batch
        cursor = batch.cursor

    values = asdict(hashes) | _beginning(cursor) | {"limit": limit}
    # A difference that is surely small, beside one that may be a backlog.
    is_of_moments = (
        values["next_xid"] - values["xmin"] < _FEW
        and time.monotonic() - cursor.read_at < _MOMENTS_S
    )
    statement = UNSEEN_RECENT if is_of_moments else UNSEEN_SINCE
    # Within a transaction the next id may have been looked up long before the floor.
    is_fresh = driver(connection).info.transaction_status == TransactionStatus.IDLE
    read_at = time.monotonic()
    (last_position, age, _, _, _, until), *rows = fetch(connection, statement, values)
    end = replace(cursor, snapshot=until, number=cursor.number + 1, read_at=read_at)
    if is_fresh:
        end = replace(end, floor=last_position, next_xid=_next_xid(until, int(age)))
    if len(rows) < limit:
        return ShardBatch(rows, end)
    part = replace(end, snapshot=cursor.snapshot, batch_snapshot=until, position=rows[-1][0])
    return ShardBatch(rows, part)


def read_batch(
    connection: Connection, cursor: Cursor, hashes: HashRange, *, limit: int, key: str | None = None
) -> ShardBatch:
    """Read messages, or those of one key, from a cursor with a batch to the end of that batch."""
    statement = REST_OF_BATCH if key is None else REST_OF_KEY
    values = asdict(cursor) | asdict(hashes) | {"limit": limit, "key": key}
    rows = fetch(connection, statement, values)
    moved = replace(cursor, number=cursor.number + 1)
    if len(rows) == limit:
        return ShardBatch(rows, replace(moved, position=rows[-1][0]))
    end = replace(moved, snapshot=cursor.ends_at, batch_snapshot=None, position=None)
    return ShardBatch(rows, end)


def read_key(
    connection: Connection, cursor: Cursor, hashes: HashRange, key: str, *, limit: int
) -> ShardBatch:
    """Read as `read_batch` does, messages of one key only."""
    return read_batch(connection, cursor, hashes, limit=limit, key=key)


def bounded_by(connection: Connection, cursor: Cursor, end: Cursor) -> Cursor:
    """Return a cursor whose batch goes from one that has no batch to the snapshot of a later one."""
    assert cursor.batch_snapshot is None, "a batch in progress ends where it ends"
    ((lowest,),) = fetch(connection, LOWEST_UNSEEN, _beginning(cursor))
    place = cursor.snapshot, end.ends_at, lowest
    return Cursor(*place, end.floor, end.next_xid, cursor.number)


def _beginning(cursor: Cursor) -> dict[str, Any]:
    """Return where the difference begins, for a cursor without a batch."""
    xmin, xmax = _ends(cursor.snapshot)
    next_xid = max(int(cursor.next_xid), xmax)
    before_next = f"{next_xid}:{next_xid}:"
    xids = {"xmin": xmin, "xmax": xmax, "next_xid": next_xid, "before_next": before_next}
    return asdict(cursor) | xids


def _ends(snapshot: str) -> tuple[int, int]:
    xmin, xmax, _ = snapshot.split(":")
    return int(xmin), int(xmax)


def _next_xid(snapshot: str, age: int) -> str:
    """Widen an id of 32 bits, given as its distance from the first, by the snapshot it is not below."""
    _, xmax = _ends(snapshot)
    return str(xmax + (_XID_FIRST + age - xmax) % _XID_32)
