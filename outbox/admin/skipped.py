"""Skipped messages: given up by a person, and kept whole with the person's name, the time and the reason.

The message that is in the way of its key becomes a dead letter, and the key goes on behind it, in one
statement: it is never both skipped and tried again. A dead letter is a record, and nothing deletes it.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, text

from outbox.admin.decisions import decide
from outbox.tables import dead_letter

LIST_MAX = 1_000

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


def skip_message(connection: Connection, key: str, *, skipped_by: str, note: str = "") -> None:
    """Give a refused message up: it becomes a dead letter, and what is behind it is published.

    Raises `KeyNotBlocked`.
    """
    decide(connection, SKIP, {"key": key, "skipped_by": skipped_by, "note": note})


def skipped_messages(connection: Connection, *, limit: int = LIST_MAX) -> list[SkippedMessage]:
    """Return the last ones that were skipped, the newest first."""
    newest = select(dead_letter).order_by(dead_letter.c.id.desc()).limit(limit)
    return [SkippedMessage(**row) for row in connection.execute(newest).mappings()]
