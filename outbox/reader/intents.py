"""Intents: before a cursor becomes final in another store (Kafka, say), the database records the intent.

A relay that keeps its cursors in another store must not get ahead of what Postgres will remember. A crash
of the server takes back what is not flushed yet, and a failover what had not reached the standby;
transaction ids and positions are then given out a second time, and a cursor that has seen the first ones
would hide messages that have them again. An intent is flushed, and with it all that was given out before.
It takes the number of the cursor to come; the rest of the row still says where the shard stands. So a row
that has an intent's number and the old cursor does not know the outcome yet, and any other row does.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, text

from outbox.reader.cursor import Cursor
from outbox.reader.shards import CURSOR, IS_OWNER, UNTIL, Shard, execute_as_owner

# Flushed, though the relay's session flushes nothing; on the standbys, too, where these are synchronous.
RECORD_INTENT = text(f"""
    UPDATE outbox.shard
    SET number = coalesce(CAST(:number AS bigint), number),
        leased_until = {UNTIL}
    WHERE {IS_OWNER}
    RETURNING {CURSOR}, number, set_config('synchronous_commit', 'on', true)
""")


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
