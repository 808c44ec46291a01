"""The crash guard: which message a relay was publishing when it crashed.

The first message after a claim, and the first of a blocked key that is retried, are published alone, and
marked before: in the row of the shard, or in that of the key, since the two take turns. Whatever records
that the message is published takes the mark away, and so does a relay that lives to wait. So a mark that
is found again is that of a relay which crashed while it published this message.
"""

from sqlalchemy import Connection, text

from outbox.reader.shards import IS_OWNER, Shard, execute_as_owner, owned

MARK = text(f"""
    UPDATE outbox.shard
    SET touches = CASE WHEN touched = :position THEN touches + 1 ELSE 1 END, touched = :position
    WHERE {IS_OWNER}
    RETURNING touches
""")
MARK_KEY = text(f"""
    UPDATE outbox.blocked_key SET touches = touches + 1
    WHERE key = :key AND EXISTS (SELECT FROM outbox.shard WHERE {IS_OWNER})
    RETURNING touches
""")

CLEAR = text(f"""
    WITH shard AS (
        UPDATE outbox.shard SET touched = NULL, touches = 0 WHERE {IS_OWNER} RETURNING hash_from, hash_to
    )
    UPDATE outbox.blocked_key SET touches = 0 FROM shard
    WHERE key_hash >= hash_from AND key_hash < hash_to AND touches > 0
""")


def mark_in_flight(
    connection: Connection, shard: Shard, position: int, *, key: str | None = None
) -> int:
    """Mark the shard's next message, or that of a key that is retried; returns how often in a row.

    Raises `LeaseLost`.
    """
    statement = MARK if key is None else MARK_KEY
    marked = execute_as_owner(connection, statement, shard, position=position, key=key)
    return int(marked.scalar_one())


def clear_in_flight(connection: Connection, shard: Shard) -> None:
    """Take the marks away: whatever happens from now on, it was not the message."""
    connection.execute(CLEAR, owned(shard))
