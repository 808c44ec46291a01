"""Shards: which relay has which keys, and how far they are published.

A shard is a half-open range of key hashes, a cursor and a lease. The lease runs on the database's
clock. Every take-over raises the epoch, and every write of a cursor is conditional on the epoch, so a
relay that was paused and wakes up cannot move a cursor that is no longer its own.

    free ──claim──► leased ──heartbeat, save──► leased
      ▲               │ └──lease runs out──► free (in all but the owner's name)
      └────release────┘

How many of them a relay should have is told in `outbox.reader.membership`; how they are made anew in
`outbox.admin.resharding`. A shard whose handover is requested may be claimed by the requester only.

A relay that keeps its cursors in another store (Kafka, say) records an intent before one becomes final
there, or it could get ahead of what Postgres will remember. A crash of the server takes back what is not
flushed yet, and a failover what had not reached the standby; transaction ids and positions are then given
out a second time, and a cursor that has seen the first ones would hide messages that have them again. An
intent is flushed, and with it all that was given out before. It takes the number of the cursor to come;
the rest of the row still says where the shard stands. So a row that has an intent's number and the old
cursor does not know the outcome yet, and any other row does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, CursorResult, TextClause, text

from outbox.errors import LeaseLost, NoSuchShard
from outbox.reader.cursor import Cursor, HashRange


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of keys as it was last read or written."""

    id: int
    hashes: HashRange
    cursor: Cursor
    epoch: int
    owner: str | None
    leased_until: datetime | None
    reserved_for: str | None = None
    # What the row says, where `cursor` has moved on.
    saved: Cursor | None = field(default=None, compare=False, repr=False)


# Where it is told that a shard, or a share, may be had.
SHARD_CHANNEL = "outbox_releases"

# In the order of the fields of `Cursor`, but for the number, and of `Shard`.
CURSOR = "snapshot::text, batch_snapshot::text, position, floor, next_xid::text"
SHARD = f"""id, hash_from, hash_to, {CURSOR}, number, epoch, owner, leased_until,
    CASE WHEN reserved_until > clock_timestamp() THEN reserved_for END AS reserved_for"""

UNTIL = "clock_timestamp() + make_interval(secs => :lease_s)"
IS_OWNER = "id = :id AND epoch = :epoch AND owner = :owner"
NOT_RESERVED = (
    "(reserved_until IS NULL OR reserved_until < clock_timestamp() OR reserved_for = :owner)"
)
_CURSOR = """snapshot = CAST(:snapshot AS pg_snapshot),
    batch_snapshot = CAST(:batch_snapshot AS pg_snapshot), position = :position, floor = :floor,
    next_xid = CAST(:next_xid AS xid8), number = :number"""

SHARDS = text(f"SELECT {SHARD} FROM outbox.shard ORDER BY hash_from")

# SKIP LOCKED is right here, unlike for messages: shards have no order, and a shard that another relay
# is claiming at this moment is not worth waiting for. An owner may claim its own shard again, unless it
# holds it: one whose connection broke need not wait for its own lease to run out.
CLAIM = text(f"""
    UPDATE outbox.shard SET owner = :owner, epoch = epoch + 1, leased_until = {UNTIL}
    WHERE id = (
        SELECT id FROM outbox.shard
        WHERE (leased_until IS NULL OR leased_until < clock_timestamp() OR owner = :owner)
          AND {NOT_RESERVED}
          AND id <> ALL (CAST(:holding AS int[])) AND id = coalesce(CAST(:id AS int), id)
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING {SHARD}
""")

SAVE = text(f"""
    UPDATE outbox.shard SET {_CURSOR}, leased_until = {UNTIL}, touched = NULL, touches = 0
    WHERE {IS_OWNER}
""")

# Within a batch: its snapshots, of some bytes for each transaction in flight, stay as they are.
SAVE_PART = text(f"""
    UPDATE outbox.shard
    SET position = :position, number = :number, leased_until = {UNTIL}, touched = NULL, touches = 0
    WHERE {IS_OWNER}
""")

RENEW = text(f"UPDATE outbox.shard SET leased_until = {UNTIL} WHERE {IS_OWNER}")

RELEASE = text(f"""
    WITH released AS (
        UPDATE outbox.shard SET owner = NULL, leased_until = NULL, touched = NULL, touches = 0
        WHERE {IS_OWNER}
        RETURNING id
    )
    SELECT pg_notify('{SHARD_CHANNEL}', id::text) FROM released
""")

# Flushed, though the relay's session flushes nothing; on the standbys, too, where these are synchronous.
RECORD_INTENT = text(f"""
    UPDATE outbox.shard
    SET number = coalesce(CAST(:number AS bigint), number),
        leased_until = {UNTIL}
    WHERE {IS_OWNER}
    RETURNING {CURSOR}, number, set_config('synchronous_commit', 'on', true)
""")


def shards(connection: Connection) -> list[Shard]:
    """Return every shard, in the order of their hashes."""
    return [shard_of(row) for row in connection.execute(SHARDS)]


def find_shard(connection: Connection, shard_id: int) -> Shard:
    """Return one shard; raises `NoSuchShard`."""
    for shard in shards(connection):
        if shard.id == shard_id:
            return shard
    raise NoSuchShard(shard_id)


def claim(
    connection: Connection,
    owner: str,
    *,
    lease_s: float,
    holding: Iterable[int] = (),
    shard_id: int | None = None,
) -> Shard | None:
    """Take a shard that is free, or the owner's already and not in `holding`; None if there is none.

    `owner` names one relay, not one machine: two relays of one name would take from each other.
    """
    values = {"owner": owner, "lease_s": lease_s, "holding": list(holding), "id": shard_id}
    row = connection.execute(CLAIM, values).one_or_none()
    return shard_of(row) if row else None


def save(connection: Connection, shard: Shard, cursor: Cursor, *, lease_s: float) -> Shard:
    """Record that all up to the cursor is published, and renew the lease; raises `LeaseLost`."""
    is_in_saved_batch = (
        shard.saved is not None
        and cursor.batch_snapshot is not None
        and cursor.batch_snapshot == shard.saved.batch_snapshot
        and cursor.snapshot == shard.saved.snapshot
    )
    statement = SAVE_PART if is_in_saved_batch else SAVE
    execute_as_owner(connection, statement, shard, **asdict(cursor), lease_s=lease_s)
    return replace(shard, cursor=cursor, saved=cursor)


def renew(connection: Connection, shard: Shard, *, lease_s: float) -> None:
    """Keep the shard; raises `LeaseLost` if another relay has it."""
    execute_as_owner(connection, RENEW, shard, lease_s=lease_s)


def release_shard(connection: Connection, shard: Shard) -> None:
    """Give the shard up at once, and notify `SHARD_CHANNEL`; raises `LeaseLost`."""
    execute_as_owner(connection, RELEASE, shard)


def record_intent(
    connection: Connection, shard: Shard, number: int | None, *, lease_s: float
) -> Cursor:
    """Record that the shard's cursor of this number is about to be made final, and renew the lease.

    Returns where the database has the shard, under that number, or under its own without one. Raises
    `LeaseLost`. Durable at once where the connection is in autocommit.
    """
    values = {"number": number, "lease_s": lease_s}
    row: Sequence[Any] = execute_as_owner(connection, RECORD_INTENT, shard, **values).one()
    return Cursor(*row[:-1])


def reload_shard(connection: Connection, shard: Shard, *, lease_s: float) -> Shard:
    """Return the shard where the database has it, and renew the lease; raises `LeaseLost`."""
    return replace(shard, cursor=record_intent(connection, shard, None, lease_s=lease_s))


def owned(shard: Shard) -> dict[str, object]:
    """Return what a write that only the owner may make is conditional on."""
    return {"id": shard.id, "epoch": shard.epoch, "owner": shard.owner}


def execute_as_owner(
    connection: Connection, statement: TextClause, shard: Shard, **values: object
) -> CursorResult[Any]:
    """Run a write that only the owner may make; raises `LeaseLost`."""
    result = connection.execute(statement, values | owned(shard))
    if result.rowcount == 0:
        raise LeaseLost(shard.id, shard.epoch)
    return result


def shard_of(row: Sequence[Any]) -> Shard:
    """Return the shard that a row of `SHARD` is."""
    shard_id, hash_from, hash_to, *place, epoch, owner, leased_until, reserved_for = row
    hashes, cursor = HashRange(hash_from, hash_to), Cursor(*place)
    return Shard(shard_id, hashes, cursor, epoch, owner, leased_until, reserved_for, saved=cursor)
