"""Reading: every message that was committed since a snapshot, once, and in an order that is safe.

A cursor is a Postgres snapshot. A reading is what is visible now and was not visible then, so a
transaction that commits late is never stepped over, whatever its position, and one that is still open
holds up nobody. The statement that reads also returns the snapshot it read with: the next cursor.

Order. If two writers of one key hold a common lock from before their appends until their commits, the
first to commit has the lower position, and no snapshot shows the second without the first. Within a
reading messages are sorted by position; so the messages of such a key come in commit order. Not
good enough would be: `position > last` (skips late committers), `xid < xmin` (one open transaction
stops all delivery, and the order of transaction ids is not the order of locks), SKIP LOCKED claims
and the order of a timestamp or UUID.

Backlog. A difference larger than the limit is read in parts. The first part fixes the snapshot at which
the difference ends; what was visible in it stays visible, so later parts need no transaction held open
and can be resumed by another process: `(snapshot, batch_snapshot, position)` is all there is to know.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from psycopg.rows import TupleRow
from psycopg.types.string import ByteaBinaryLoader
from sqlalchemy import Connection, text

# Typed, it is twice as fast as a driver's loader that Python must call for each row.
decode_headers = msgspec.json.Decoder(dict[str, str]).decode

_COLUMNS = "position, topic, key, value, headers"

# `position + 0`: with the bare column and a LIMIT the planner may walk the whole log in position order
# in search of the few rows that pass. The `xid` conditions are the selective ones, and each is an index
# condition. The first row carries the snapshot, so that a long one is not sent with every message.
UNSEEN_SINCE = f"""
    WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot)
    SELECT NULL AS position, NULL AS topic, NULL AS key, NULL AS value, NULL AS headers,
           snapshot::text
    FROM now
    UNION ALL
    (SELECT {_COLUMNS}, NULL FROM (
        SELECT {_COLUMNS} FROM outbox.message
        WHERE xid >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
          AND key_hash >= %(hash_from)s::bigint AND key_hash < %(hash_to)s::bigint
        UNION ALL -- late committers: in progress at the snapshot, committed since
        SELECT {_COLUMNS} FROM outbox.message
        WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(snapshot)s::pg_snapshot)))
          AND key_hash >= %(hash_from)s::bigint AND key_hash < %(hash_to)s::bigint
     ) AS unseen
     ORDER BY position + 0
     LIMIT %(limit)s)
"""

# Here the position is the selective condition: the parts of a backlog lie side by side. Visibility in a
# snapshot is a filter, which no index can take the planner away with.
REST_OF_BATCH = f"""
    SELECT {_COLUMNS}, NULL FROM outbox.message
    WHERE position > %(position)s::bigint
      AND NOT pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
      AND pg_visible_in_snapshot(xid, %(batch_snapshot)s::pg_snapshot)
      AND key_hash >= %(hash_from)s::bigint AND key_hash < %(hash_to)s::bigint
    ORDER BY position
    LIMIT %(limit)s
"""

# A generic plan spares planning over all partitions at every reading; with it the planner knows none of
# the values, so sequential scans are ruled out by hand. No workers: they would mix the rows' order.
# The first reading of a huge backlog looks at all of it, which no limit on ordinary statements must cut
# short, or it would never end; waiting for locks stays bounded. Cursors need no flush of their own: one
# that a crash of the server takes back lies behind what is published, never before it.
_SESSION = text("""
    SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
           set_config('enable_seqscan', 'off', false),
           set_config('max_parallel_workers_per_gather', '0', false),
           set_config('jit', 'off', false),
           set_config('statement_timeout', '0', false),
           set_config('synchronous_commit', 'off', false)
""")


@dataclass(frozen=True, slots=True)
class Cursor:
    """What has been published: all that `snapshot` shows and, in a backlog, more.

    While a backlog is published in parts, also what `batch_snapshot` shows up to `position`.
    """

    snapshot: str
    batch_snapshot: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class HashRange:
    """The half-open range of key hashes that a shard is."""

    hash_from: int
    hash_to: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Messages in publishing order, and the cursor to save once all of them are published.

    A row is (position, topic, key, value, headers, None); headers are JSON for `decode_headers`.
    """

    rows: list[tuple[Any, ...]] = field(repr=False)
    cursor: Cursor


def prepare_session(connection: Connection) -> None:
    """Set a connection up for `read` and `save`. It must be in autocommit, and direct (no pgbouncer)."""
    connection.execute(_SESSION)
    _driver(connection).adapters.register_loader("json", ByteaBinaryLoader)


def read(connection: Connection, cursor: Cursor, hashes: HashRange, *, limit: int) -> Reading:
    """Read at most `limit` messages after the cursor. Nothing is locked, written or left open.

    No messages means that there is nothing more to read: where a backlog ended with its last part, the
    difference after it is read at once.
    """
    values = {
        "snapshot": cursor.snapshot,
        "hash_from": hashes.hash_from,
        "hash_to": hashes.hash_to,
        "limit": limit,
    }
    if cursor.batch_snapshot is None:
        (*_, until), *rows = _rows(connection, UNSEEN_SINCE, values)
    else:
        until = cursor.batch_snapshot
        rest = values | {"batch_snapshot": until, "position": cursor.position}
        rows = _rows(connection, REST_OF_BATCH, rest)
        if not rows:
            return read(connection, Cursor(until), hashes, limit=limit)

    if len(rows) < limit:
        return Reading(rows, Cursor(until))
    return Reading(rows, Cursor(cursor.snapshot, until, rows[-1][0]))


def _rows(connection: Connection, statement: str, values: dict[str, Any]) -> list[TupleRow]:
    # The driver itself, in binary: this is the hot path, and a row object for each message would
    # cost more than reading it.
    with _driver(connection).cursor(binary=True) as cursor:
        rows: list[TupleRow] = cursor.execute(statement, values, prepare=True).fetchall()
    return rows


def _driver(connection: Connection) -> Any:  # noqa: ANN401 - psycopg's, behind SQLAlchemy's untyped door
    return connection.connection.driver_connection
