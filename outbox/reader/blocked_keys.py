"""Blocked keys: a message that is refused for good holds up its key, and no other.

A blocked key is a shard of that key alone: its cursor says what of the key is published, and while
there is one, the relay of the shard passes the key's messages over. So nothing overtakes the refused
message, and nothing is copied or forgotten: what is held back is still in the log, which retention keeps.

    (refused) ──► BLOCKED ──retry, skip──► RETRYING ──caught up with its shard──► (gone)
                     ▲                        │
                     └──────refused again─────┘

The crash guard finds a message that takes its relay down. The first message after a claim, and the first
of a blocked key that is retried, are published alone, and marked before: in the row of the shard, or in
that of the key, since the two take turns. Whatever records that the message is published takes the mark
away, and so does a relay that lives to wait. So a mark that is found again is that of a relay which
crashed while it published this message.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from outbox.reader.cursor import ALL_KEYS, Cursor, HashRange
from outbox.reader.shards import CURSOR, IS_OWNER, SAVE, Shard, execute_as_owner, owned

REASON_LENGTH_MAX = 1_000


@dataclass(frozen=True, slots=True)
class BlockedKey:
    """A key whose messages wait, the message that is in the way, and what of the key is published."""

    key: str
    state: str
    message_id: UUID
    topic: str
    message_position: int
    reason: str
    attempts: int
    blocked_at: datetime
    cursor: Cursor


# In the order of the fields, the last five of the cursor: its number is the shard's to count.
BLOCKED_KEYS = text(f"""
    SELECT key, state, message_id, topic, message_position, reason, attempts, blocked_at, {CURSOR}
    FROM outbox.blocked_key
    WHERE key_hash >= :hash_from AND key_hash < :hash_to ORDER BY blocked_at, key
""")

# The shard is locked in the same statement: a relay that has lost it, or is losing it now, blocks
# nothing.
BLOCK = text(f"""
    WITH held AS (SELECT FROM outbox.shard WHERE {IS_OWNER} FOR UPDATE)
    INSERT INTO outbox.blocked_key (key, message_id, topic, message_position, reason, snapshot,
                                    batch_snapshot, position, floor, next_xid)
    SELECT key, message_id, topic, message.position, :reason, CAST(:snapshot AS pg_snapshot),
           CAST(:batch_snapshot AS pg_snapshot), message.position - 1, :floor,
           CAST(:next_xid AS xid8)
    FROM outbox.message
    WHERE message.position = :position AND EXISTS (SELECT FROM held)
    ON CONFLICT (key) DO UPDATE
    SET state = 'BLOCKED', reason = excluded.reason, message_id = excluded.message_id,
        topic = excluded.topic, message_position = excluded.message_position,
        snapshot = excluded.snapshot, batch_snapshot = excluded.batch_snapshot,
        position = excluded.position, floor = excluded.floor, next_xid = excluded.next_xid,
        touches = 0,
        attempts = CASE WHEN blocked_key.message_position = excluded.message_position
                        THEN blocked_key.attempts + 1 ELSE 1 END
""")

SAVE_KEY = text(f"""
    WITH saved AS ({SAVE} RETURNING id), moved AS (
        UPDATE outbox.blocked_key
        SET snapshot = CAST(:key_snapshot AS pg_snapshot),
            batch_snapshot = CAST(:key_batch_snapshot AS pg_snapshot), position = :key_position,
            floor = :key_floor, next_xid = CAST(:key_next_xid AS xid8), touches = 0
        WHERE NOT :is_free AND key = :key AND state = 'RETRYING' AND EXISTS (SELECT FROM saved)
    ), freed AS (
        DELETE FROM outbox.blocked_key
        WHERE :is_free AND key = :key AND state = 'RETRYING' AND EXISTS (SELECT FROM saved)
    )
    SELECT id FROM saved
""")

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


def blocked_keys(connection: Connection, hashes: HashRange = ALL_KEYS) -> list[BlockedKey]:
    """Return the blocked keys of a range, or of all, the longest blocked first."""
    rows = connection.execute(BLOCKED_KEYS, asdict(hashes))
    values = ((*row[:-5], Cursor(*row[-5:])) for row in rows)
    return [BlockedKey(*each) for each in values]


def block_key(
    connection: Connection, shard: Shard, cursor: Cursor, position: int, reason: str
) -> None:
    """Block the key of the message at a position, which is the last that `cursor` covers.

    The cursor is that of a batch of this one message. Raises `LeaseLost`.
    """
    assert cursor.position == position, "a batch of one message ends with it"
    reason = reason.replace("\0", "?")[:REASON_LENGTH_MAX]
    execute_as_owner(connection, BLOCK, shard, **asdict(cursor), reason=reason)


def save_key(
    connection: Connection, shard: Shard, cursor: Cursor, blocked: BlockedKey, *, lease_s: float
) -> Shard:
    """Record how far a key that is retried has come, beside its shard's cursor.

    A key that stands where its shard stands is blocked no more. Raises `LeaseLost`.
    """
    place = blocked.cursor
    has_caught_up = cursor.batch_snapshot is None and place.batch_snapshot is None
    is_free = has_caught_up and place.snapshot == cursor.snapshot
    values = {f"key_{name}": value for name, value in asdict(place).items()}
    values |= asdict(cursor) | {"lease_s": lease_s, "key": blocked.key, "is_free": is_free}
    execute_as_owner(connection, SAVE_KEY, shard, **values)
    return replace(shard, cursor=cursor, saved=cursor)


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
