"""Decisions about blocked keys: a person has the refused message tried again, or gives it up (`skipped`).

The decision is a change of the key's state; the relay of its shard hears of it, and publishes what
waits. See `outbox.reader.blocked_keys` for the states.
"""

from sqlalchemy import Connection, TextClause, text

from outbox.errors import KeyNotBlocked
from outbox.reader.published import covers

LOOKED_AT_MAX = 100_000
# Relays hear of a decision on the doorbell's channel, since they listen to it anyway.
CHANGED = text("SELECT pg_notify('outbox', '')")

# What waits for a person is told apart from what is being tried by the state alone.
RETRY = text("""
    UPDATE outbox.blocked_key SET state = 'RETRYING', touches = 0
    WHERE key = :key AND state = 'BLOCKED'
""")
RETRY_ALL = text("""
    UPDATE outbox.blocked_key SET state = 'RETRYING', touches = 0
    WHERE state = 'BLOCKED' RETURNING key
""")

# No index knows the keys of messages, so a bounded piece of the log is looked at for each.
WAITING = text(f"""
    SELECT blocked_key.key, behind.waiting, behind.looked_at >= :look_at AS has_more
    FROM outbox.blocked_key CROSS JOIN LATERAL (
        SELECT count(*) AS looked_at,
               count(*) FILTER (
                   WHERE later.key = blocked_key.key AND NOT {covers("blocked_key", "later")}
               ) AS waiting
        FROM (SELECT position, key, xid FROM outbox.message
              WHERE message.position > message_position
              ORDER BY message.position LIMIT :look_at) AS later
    ) AS behind
""")


def retry_key(connection: Connection, key: str) -> None:
    """Have a blocked key's messages published again, from the refused one on; raises `KeyNotBlocked`."""
    decide(connection, RETRY, {"key": key})


def retry_all_keys(connection: Connection) -> list[str]:
    """Do as `retry_key` does for every blocked key; returns the keys, in their order."""
    keys = sorted(connection.execute(RETRY_ALL).scalars())
    connection.execute(CHANGED)
    return keys


def count_waiting(
    connection: Connection, *, look_at: int = LOOKED_AT_MAX
) -> dict[str, tuple[int, bool]]:
    """Count, for each blocked key, the messages behind the one in the way, and tell if there may be more.

    So many messages of the log are looked at for a key, from the one in the way on.
    """
    rows = connection.execute(WAITING, {"look_at": look_at})
    return {row.key: (row.waiting, row.has_more) for row in rows}


def decide(connection: Connection, statement: TextClause, values: dict[str, str]) -> None:
    """Carry out what a person has decided about a key, and tell the relays; raises `KeyNotBlocked`."""
    if connection.execute(statement, values).rowcount == 0:
        raise KeyNotBlocked(values["key"])
    connection.execute(CHANGED)
