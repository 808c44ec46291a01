"""Resharding: one shard made several, or two neighbours one; nothing is read again or left out.

A process that changes a shard owns it at that moment: it requests the handover, so that the owner
releases the shard and no other relay claims it, and then claims it. A shard never changes its range: what
has another range has another id, which the sequence gives out once. So whatever is kept elsewhere of a
shard (in exactly-once mode its cursor in Kafka) is not taken for that of a narrower or a wider one.
"""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, text

from outbox.errors import HandoverTaken, NotNeighbours
from outbox.reader.cursor import Cursor
from outbox.reader.shards import (
    IS_OWNER,
    NOT_RESERVED,
    SHARD,
    SHARD_CHANNEL,
    Shard,
    execute_as_owner,
    find_shard,
    shard_of,
)

REQUEST_HANDOVER = text(f"""
    WITH reserved AS (
        UPDATE outbox.shard
        SET reserved_for = :owner, reserved_until = clock_timestamp() + make_interval(secs => :for_s)
        WHERE id = :id AND {NOT_RESERVED}
        RETURNING id
    )
    SELECT pg_notify('{SHARD_CHANNEL}', id::text) FROM reserved
""")
CANCEL_HANDOVER = text(f"""
    WITH free AS (
        UPDATE outbox.shard SET reserved_for = NULL, reserved_until = NULL
        WHERE id = :id AND reserved_for = :owner RETURNING id
    )
    SELECT pg_notify('{SHARD_CHANNEL}', id::text) FROM free
""")

DROP = text(f"DELETE FROM outbox.shard WHERE {IS_OWNER}")
MAKE = text(f"""
    INSERT INTO outbox.shard (hash_from, hash_to, snapshot, batch_snapshot, position, floor, next_xid,
                              number)
    SELECT range_from, range_to, CAST(:snapshot AS pg_snapshot), CAST(:batch_snapshot AS pg_snapshot),
           CAST(:position AS bigint), CAST(:floor AS bigint), CAST(:next_xid AS xid8),
           CAST(:number AS bigint)
    FROM unnest(CAST(:froms AS bigint[]), CAST(:tos AS bigint[])) AS range (range_from, range_to)
    ORDER BY range_from
    RETURNING {SHARD}
""")
TELL = text(f"SELECT pg_notify('{SHARD_CHANNEL}', '')")


def request_handover(connection: Connection, shard_id: int, owner: str, *, for_s: float) -> None:
    """Have a shard handed over: its owner releases it, and only `owner` may claim it for so long.

    Can be repeated to prolong it. Raises `NoSuchShard`, or `HandoverTaken` if another was first.
    """
    values = {"id": shard_id, "owner": owner, "for_s": for_s}
    if connection.execute(REQUEST_HANDOVER, values).rowcount == 0:
        other = find_shard(connection, shard_id).reserved_for
        raise HandoverTaken(shard_id, other or "another process")


def cancel_handover(connection: Connection, shard_id: int, owner: str) -> None:
    """Cancel the request, and notify `SHARD_CHANNEL`: any relay may claim the shard again."""
    connection.execute(CANCEL_HANDOVER, {"id": shard_id, "owner": owner})


def split(connection: Connection, shard: Shard, into: int = 2) -> list[Shard]:
    """Replace a shard that the caller owns by several of equal ranges, in the caller's transaction.

    All stand where it stood, and are free after the commit. Raises `LeaseLost`, or `ValueError` if the
    range has not so many hashes.
    """
    low, high = shard.hashes.hash_from, shard.hashes.hash_to
    if not 1 < into <= high - low:
        raise ValueError(f"shard {shard.id} cannot be split into {into}")
    cuts = [low + (high - low) * part // into for part in range(into + 1)]
    return _replace(connection, [shard], cuts, shard.cursor)


def merge(connection: Connection, left: Shard, right: Shard) -> Shard:
    """Replace two neighbours that the caller owns by one, in the caller's transaction.

    It is free once that commits. Raises `LeaseLost`, and `NotNeighbours` if the two do not touch, or do
    not stand at one snapshot, to which the caller has to relay both before.
    """
    is_whole = left.cursor.batch_snapshot is None and right.cursor.batch_snapshot is None
    has_met = is_whole and left.cursor.snapshot == right.cursor.snapshot
    if left.hashes.hash_to != right.hashes.hash_from or not has_met:
        raise NotNeighbours(left.id, right.id)
    ends = [left.hashes.hash_from, right.hashes.hash_to]
    return _replace(connection, [left, right], ends, left.cursor)[0]


def _replace(
    connection: Connection, gone: Sequence[Shard], cuts: Sequence[int], cursor: Cursor
) -> list[Shard]:
    """Make shards from each cut to the next one, in place of others."""
    for shard in sorted(gone, key=lambda shard: shard.id):  # in the order in which all lock them
        execute_as_owner(connection, DROP, shard)
    values = asdict(cursor) | {"froms": cuts[:-1], "tos": cuts[1:]}
    made = [shard_of(row) for row in connection.execute(MAKE, values)]
    connection.execute(TELL)
    return made
