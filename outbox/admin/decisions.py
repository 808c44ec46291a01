"""Decisions about blocked keys: a person has the refused message tried again, or gives it up.

The decision is a change of the key's state; the relay of its shard hears of it, and publishes what
waits. See `outbox.reader.blocked_keys` for the states.

A message that is given up is skipped: it becomes a dead letter, whole, with the person's name, the time
and the reason, and the key goes on behind it. Both in one statement: it is never both skipped and tried
again. A dead letter is a record, and nothing deletes it.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause, select, text

from outbox.errors import KeyNotBlocked
from outbox.reader.cursor import covers
from outbox.tables import dead_letter

# Relays hear of a decision on the doorbell's channel, since they listen to it anyway.
CHANGED = text("SELECT pg_notify('outbox', '')")

# What waits for a person is told apart from what is being tried by the state alone.
RETRY = text("""
    UPDATE outbox.blocked_key SET state = 'RETRYING', touches = 0
    WHERE key = coalesce(:key, key) AND state = 'BLOCKED' RETURNING key
""")

# A copy, since retention drops the message. The key is locked first, so that of two decisions at once
# the second finds it decided. All of the key below the message is published, or that would have been in
# the way itself; so to step over it is to put the key's cursor onto it.
SKIP = text("""
    WITH decided AS (
        SELECT message_position, reason, attempts, blocked_at FROM outbox.blocked_key
        WHERE key = :key AND state = 'BLOCKED' FOR UPDATE
    ), skipped AS (
        INSERT INTO outbox.dead_letter (message_id, topic, key, value, headers, position, created_at,
                                        reason, attempts, blocked_at, skipped_by, note)
        SELECT message_id, topic, key, value, headers, position, created_at,
               reason, attempts, blocked_at, :skipped_by, :note
        FROM outbox.message JOIN decided ON position = message_position
        RETURNING key
    )
    UPDATE outbox.blocked_key SET state = 'RETRYING', position = message_position, touches = 0
    FROM skipped WHERE blocked_key.key = skipped.key
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


@dataclass(frozen=True, slots=True)
class SkippedMessage:
    """A message that was given up, and who did it."""

    id: int
    message_id: UUID
    topic: str
    key: str
    value: bytes
    headers: dict[str, str]
    position: int
    created_at: datetime
    reason: str
    attempts: int
    blocked_at: datetime
    skipped_at: datetime
    skipped_by: str
    note: str


def retry_key(connection: Connection, key: str) -> None:
    """Have a blocked key's messages published again, from the refused one on; raises `KeyNotBlocked`."""
    _decide(connection, RETRY, {"key": key})


def retry_all_keys(connection: Connection) -> list[str]:
    """Do as `retry_key` does for every blocked key; returns the keys, in their order."""
    keys = sorted(connection.execute(RETRY, {"key": None}).scalars())
    connection.execute(CHANGED)
    return keys


def skip_message(connection: Connection, key: str, *, skipped_by: str, note: str = "") -> None:
    """Make a dead letter of a refused message, and go on behind it; raises `KeyNotBlocked`."""
    _decide(connection, SKIP, {"key": key, "skipped_by": skipped_by, "note": note})


def skipped_messages(connection: Connection, *, limit: int = 1_000) -> list[SkippedMessage]:
    """Return the last ones that were skipped, the newest first."""
    newest = select(dead_letter).order_by(dead_letter.c.id.desc()).limit(limit)
    return [SkippedMessage(**row) for row in connection.execute(newest).mappings()]


def count_waiting(connection: Connection, *, look_at: int = 100_000) -> dict[str, tuple[int, bool]]:
    """Count, for each blocked key, the messages behind the one in the way, and tell if there may be more.

    So many messages of the log are looked at for a key, from the one in the way on.
    """
    rows = connection.execute(WAITING, {"look_at": look_at})
    return {row.key: (row.waiting, row.has_more) for row in rows}


def _decide(connection: Connection, statement: TextClause, values: dict[str, str]) -> None:
    """Carry out what a person has decided about a key, and tell the relays; raises `KeyNotBlocked`."""
    if connection.execute(statement, values).rowcount == 0:
        raise KeyNotBlocked(values["key"])
    connection.execute(CHANGED)
