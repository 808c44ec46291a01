"""Membership: relays that are alive send heartbeats, and each takes its share of the shards.

There is no coordinator. Each heartbeat tells a relay how many others there are and what they have, and
from that each computes the same: as many shards as the others, or one more. What it holds beyond its
share it hands over; what is free and within its share it claims. A relay that cannot claim at the moment
does not count, so that the others take what it leaves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from outbox.reader.shards import NOT_RESERVED, SHARD_CHANNEL, UNTIL


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a heartbeat has found: the shards that are still the relay's, and how many it should have.

    `wanted` are those of its shards that are reserved for another. `free` may be claimed by it.
    """

    kept: frozenset[int]
    wanted: frozenset[int]
    share: int
    free: int


# One statement, as it is what an idle relay costs. Two heartbeats at once never wait for each other: each
# has its own row before it looks at others', and of those it passes over what is locked. Its shards are
# locked in the order of their ids, as by all who lock several.
HEARTBEAT = text(f"""
    WITH alive AS (
        INSERT INTO outbox.relay (name, seen_until)
        VALUES (:owner, clock_timestamp() + make_interval(secs => :seen_s))
        ON CONFLICT (name) DO UPDATE SET seen_until = excluded.seen_until
        RETURNING name
    ), forgotten AS (
        DELETE FROM outbox.relay WHERE name IN (
            SELECT name FROM outbox.relay
            WHERE seen_until < clock_timestamp() AND name <> (SELECT name FROM alive)
            FOR UPDATE SKIP LOCKED
        )
    ), own AS MATERIALIZED (
        SELECT id
        FROM unnest(CAST(:ids AS int[]), CAST(:epochs AS bigint[])) AS held (held_id, held_epoch)
        JOIN outbox.shard ON id = held_id AND epoch = held_epoch AND owner = :owner
        ORDER BY id FOR UPDATE OF shard
    ), kept AS (
        UPDATE outbox.shard SET leased_until = {UNTIL} WHERE id IN (SELECT id FROM own)
        RETURNING id, NOT {NOT_RESERVED} AS is_wanted
    ), standing AS (
        SELECT name, (SELECT count(*) FROM outbox.shard
                      WHERE owner = name AND leased_until > clock_timestamp()) AS owned
        FROM outbox.relay WHERE seen_until > clock_timestamp() AND name <> :owner
    )
    SELECT ARRAY(SELECT id FROM kept) AS kept,
           ARRAY(SELECT id FROM kept WHERE is_wanted) AS wanted,
           (SELECT count(*) FROM standing) AS others,
           (SELECT count(*) FROM standing WHERE (owned, :owner) > (:owned, name)) AS before,
           (SELECT count(*) FROM outbox.shard) AS shards,
           (SELECT count(*) FROM outbox.shard
            WHERE (leased_until IS NULL OR leased_until < clock_timestamp() OR owner = :owner)
              AND {NOT_RESERVED} AND id <> ALL (CAST(:ids AS int[]))) AS free
""")

LEAVE = text(f"""
    WITH gone AS (DELETE FROM outbox.relay WHERE name = :owner RETURNING name)
    SELECT pg_notify('{SHARD_CHANNEL}', name) FROM gone
""")
JOIN = text(f"SELECT pg_notify('{SHARD_CHANNEL}', :owner)")


def heartbeat(
    connection: Connection,
    owner: str,
    holding: Mapping[int, int],
    *,
    lease_s: float,
    is_able: bool = True,
) -> Assignment:
    """Say that a relay is alive and renew its shards, given as epochs by id.

    A relay without a heartbeat for `lease_s` counts as dead, and its shards as free. One that is not
    able to claim keeps what it has, and the others share as if it were not there.
    """
    values = {
        "owner": owner,
        "seen_s": lease_s if is_able else 0,
        "ids": list(holding),
        "epochs": list(holding.values()),
        "owned": len(holding),
        "lease_s": lease_s,
    }
    row = connection.execute(HEARTBEAT, values).one()
    share = share_of(row.shards, row.others + 1, row.before)
    return Assignment(frozenset(row.kept), frozenset(row.wanted), share, row.free)


def share_of(shards: int, relays: int, before: int) -> int:
    """Return how many of the shards are for the relay that so many others stand before.

    The relay that has most is first in line for what does not divide, so that little moves.
    """
    each, left_over = divmod(shards, relays)
    return each + (before < left_over)


def join(connection: Connection, owner: str) -> None:
    """Tell the others that there is one more to share with; to be called after the first heartbeat."""
    connection.execute(JOIN, {"owner": owner})


def leave(connection: Connection, owner: str) -> None:
    """Be forgotten, so that the others take more; shards are to be released before."""
    connection.execute(LEAVE, {"owner": owner})
