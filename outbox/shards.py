"""Shards: who relays which keys, and how far they are.

A shard is a half-open range of key hashes, a cursor and a lease. The lease runs on the database's
clock. Every take-over raises the epoch, and every write of a cursor is conditional on the epoch, so a
relay that was paused and wakes up cannot move a cursor that is no longer its own.

    free ──claim──► leased ──renew, save──► leased
      ▲               │ └──lease runs out──► free (in all but the owner's name)
      └────release────┘
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, Row, TextClause, text

from outbox.diff import Cursor, HashRange
from outbox.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of keys as it was last read or written."""

    id: int
    hashes: HashRange
    cursor: Cursor
    epoch: int
    owner: str | None
    leased_until: datetime | None


# Where a release is told to those who wait for a shard.
RELEASES = "outbox_releases"

_SHARD = """id, hash_from, hash_to, snapshot::text, batch_snapshot::text, position, epoch, owner,
    leased_until"""

SHARDS = text(f"SELECT {_SHARD} FROM outbox.shard ORDER BY id")

# SKIP LOCKED is right here, unlike for messages: shards have no order, and a shard that somebody is
# claiming at this moment is not worth waiting for. An owner may claim its own shard again: one whose
# connection broke need not wait for its own lease to run out.
CLAIM = text(f"""
    UPDATE outbox.shard
    SET owner = :owner, epoch = epoch + 1,
        leased_until = clock_timestamp() + make_interval(secs => :lease_s)
    WHERE id = (
        SELECT id FROM outbox.shard
        WHERE leased_until IS NULL OR leased_until < clock_timestamp() OR owner = :owner
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING {_SHARD}
""")

SAVE = text("""
    UPDATE outbox.shard
    SET snapshot = CAST(:snapshot AS pg_snapshot),
        batch_snapshot = CAST(:batch_snapshot AS pg_snapshot), position = :position,
        leased_until = clock_timestamp() + make_interval(secs => :lease_s)
    WHERE id = :id AND epoch = :epoch AND owner = :owner
""")

RENEW = text("""
    UPDATE outbox.shard SET leased_until = clock_timestamp() + make_interval(secs => :lease_s)
    WHERE id = :id AND epoch = :epoch AND owner = :owner
""")

RELEASE = text(f"""
    WITH released AS (
        UPDATE outbox.shard SET owner = NULL, leased_until = NULL
        WHERE id = :id AND epoch = :epoch AND owner = :owner
        RETURNING id
    )
    SELECT pg_notify('{RELEASES}', id::text) FROM released
""")


def shards(connection: Connection) -> list[Shard]:
    """Return every shard, by id."""
    return [_shard(row) for row in connection.execute(SHARDS)]


def claim(connection: Connection, owner: str, *, lease_s: float) -> Shard | None:
    """Take a shard that is free, or the owner's already; None if there is none.

    `owner` names one relay, not one machine: two relays of one name would take from each other.
    """
    row = connection.execute(CLAIM, {"owner": owner, "lease_s": lease_s}).one_or_none()
    return _shard(row) if row else None


def save(connection: Connection, shard: Shard, cursor: Cursor, *, lease_s: float) -> Shard:
    """Record that all up to the cursor is published, and renew the lease; raises `LeaseLost`."""
    values = {
        "snapshot": cursor.snapshot,
        "batch_snapshot": cursor.batch_snapshot,
        "position": cursor.position,
        "lease_s": lease_s,
    }
    _conditional(connection, SAVE, shard, values)
    return replace(shard, cursor=cursor)


def renew(connection: Connection, shard: Shard, *, lease_s: float) -> None:
    """Keep the shard; raises `LeaseLost` if another relay has it."""
    _conditional(connection, RENEW, shard, {"lease_s": lease_s})


def release(connection: Connection, shard: Shard) -> None:
    """Give the shard up at once and tell those who listen to `RELEASES`; raises `LeaseLost`."""
    _conditional(connection, RELEASE, shard, {})


def _conditional(
    connection: Connection, statement: TextClause, shard: Shard, values: Mapping[str, object]
) -> None:
    owned = {"id": shard.id, "epoch": shard.epoch, "owner": shard.owner}
    if connection.execute(statement, {**owned, **values}).rowcount == 0:
        raise LeaseLost(shard.id, shard.epoch)


def _shard(row: Row[tuple[object, ...]]) -> Shard:
    return Shard(
        id=row.id,
        hashes=HashRange(row.hash_from, row.hash_to),
        cursor=Cursor(row.snapshot, row.batch_snapshot, row.position),
        epoch=row.epoch,
        owner=row.owner,
        leased_until=row.leased_until,
    )
