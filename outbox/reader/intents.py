"""Announcing: before a cursor is made final somewhere else, the database says so, durably.

Who keeps cursors elsewhere (see `relay.exactly_once`) must not get ahead of the database's memory. A
crash of the server takes back what is not flushed yet, and a fail-over what had not reached the standby;
transaction ids and positions are then given out a second time, and a cursor that has seen the first ones
would hide messages that bear them again. An announcement is flushed, and with it all that was given out
before. It takes the number of the cursor to come; the rest of the row still says where the shard stands.
So a row that is found as it was announced has not heard what became of it, and any other row has.
"""

from dataclasses import replace

from sqlalchemy import Connection, text

from outbox.errors import LeaseLost
from outbox.reader.difference import Cursor
from outbox.reader.shards import CURSOR, OURS, UNTIL, Shard, cursor_of, owned

# Flushed, though the relay's session flushes nothing; on the standbys, too, where these are synchronous.
RECORD_INTENT = text(f"""
    UPDATE outbox.shard
    SET number = coalesce(CAST(:number AS bigint), number),
        leased_until = {UNTIL}
    WHERE {OURS}
    RETURNING {CURSOR}, number, set_config('synchronous_commit', 'on', true)
""")


def record_intent(connection: Connection, shard: Shard, number: int, *, lease_s: float) -> Cursor:
    """Record that the shard's cursor of this number is about to be made final, and renew the lease.

    Returns where the database has the shard, under that number. Raises `LeaseLost`. Durable at once
    where the connection is in autocommit.
    """
    return _recorded(connection, shard, number, lease_s)


def reload_shard(connection: Connection, shard: Shard, *, lease_s: float) -> Shard:
    """Return the shard where the database has it, and renew the lease; raises `LeaseLost`."""
    return replace(shard, cursor=_recorded(connection, shard, None, lease_s))


def _recorded(connection: Connection, shard: Shard, number: int | None, lease_s: float) -> Cursor:
    values = owned(shard) | {"number": number, "lease_s": lease_s}
    row = connection.execute(RECORD_INTENT, values).one_or_none()
    if row is None:
        raise LeaseLost(shard.id, shard.epoch)
    return cursor_of(row)
