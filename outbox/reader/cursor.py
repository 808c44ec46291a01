"""The cursor: what of a range of keys is published. `outbox.reader.difference` says how it moves.

As SQL, it answers the one question that backlogs, replays, a rebase and any audit ask. A message is
published if its cursor covers it. Its cursor is that of its key while this is blocked, whatever the
shard's says, and else the shard's. Without either, as in the midst of a restore, it is not.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cursor:
    """What has been published: all that `snapshot` shows and, in a backlog, more.

    While a backlog is published in parts, also what `batch_snapshot` shows up to `position`. `floor` and
    `next_xid` tell where what comes after the difference begins; those of zero are true of any log. The
    number grows with every batch.
    """

    snapshot: str
    batch_snapshot: str | None = None
    position: int | None = None
    floor: int = 0
    next_xid: str = "0"
    number: int = 0
    # By the reading process' clock; nothing rests on it but speed.
    read_at: float = field(default=0.0, compare=False)

    @property
    def ends_at(self) -> str:
        """The snapshot that the current difference ends at."""
        return self.batch_snapshot or self.snapshot


@dataclass(frozen=True, slots=True)
class HashRange:
    """The half-open range of key hashes that a shard is."""

    hash_from: int
    hash_to: int


ALL_KEYS = HashRange(-(2**31), 2**31)


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
