"""What is published, as SQL: the one question that backlogs, replays, a rebase and any audit ask.

A message is published if its cursor covers it. Its cursor is that of its key while this is blocked,
whatever the shard's says, and else the shard's. Without either, as in the midst of a restore, it is not.
"""


def covers(cursor: str, message: str = "message") -> str:
    """Return the condition that a row with a cursor covers a row of the log, both named as in FROM.

    Covered is what the snapshot shows and, within a batch, what the batch's snapshot shows up to the
    position. Never null: a cursor that is not there covers nothing.
    """
    return f"""coalesce(pg_visible_in_snapshot({message}.xid, {cursor}.snapshot) OR (
        {message}.position <= {cursor}.position
        AND pg_visible_in_snapshot({message}.xid, {cursor}.batch_snapshot)), false)"""


_OF_ITS_KEY = "blocked_key.key = message.key"
_OF_ITS_SHARD = "message.key_hash >= shard.hash_from AND message.key_hash < shard.hash_to"

# Of a row named `message`, wherever it stands.
IS_PUBLISHED = f"""coalesce(
    (SELECT {covers("blocked_key")} FROM outbox.blocked_key WHERE {_OF_ITS_KEY}),
    (SELECT {covers("shard")} FROM outbox.shard WHERE {_OF_ITS_SHARD}),
    false)"""

# The same, to read a whole log: joined, the cursors cost a quarter of what looking them up does.
MESSAGES_WITH_CURSORS = f"""outbox.message
    LEFT JOIN outbox.shard ON {_OF_ITS_SHARD}
    LEFT JOIN outbox.blocked_key ON {_OF_ITS_KEY}"""
IS_PUBLISHED_BY_CURSORS = f"""CASE WHEN blocked_key.key IS NULL
    THEN {covers("shard")} ELSE {covers("blocked_key")} END"""
