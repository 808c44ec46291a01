"""For relays: what is committed is read in order, from a shard's cursor on, and the cursor is saved.

    prepare_session(connection)
    shard = claim(connection, "a-relay", lease_s=30)
    reading = read(connection, shard.cursor, shard.hashes, limit=1_000)
    ...  # publish reading.rows
    shard = save(connection, shard, reading.cursor, lease_s=30)

The order and delivery guarantees are stated in `outbox.reader.difference`, those of leases in
`outbox.reader.shards`. Nothing here knows what the messages mean, nor the broker that carries them.
"""

from outbox.errors import ForeignCursor, LeaseLost, NoSuchShard, SequenceBehind
from outbox.reader.blocked_keys import BlockedKey, block_key, blocked_keys, save_key
from outbox.reader.cluster_identity import check_cluster_identity, check_positions
from outbox.reader.crash_guard import clear_in_flight, mark_in_flight
from outbox.reader.cursor import ALL_KEYS, Cursor, HashRange
from outbox.reader.difference import (
    Reading,
    bounded_by,
    decode_headers,
    prepare_session,
    read,
    read_batch,
    read_key,
)
from outbox.reader.intents import record_intent, reload_shard
from outbox.reader.membership import Assignment, heartbeat, join, leave
from outbox.reader.notifications import listen, wait_for_notify
from outbox.reader.published import IS_PUBLISHED_BY_CURSORS, MESSAGES_WITH_CURSORS
from outbox.reader.shards import (
    SHARD_CHANNEL,
    Shard,
    claim,
    find_shard,
    release_shard,
    renew,
    save,
    shards,
)
from outbox.topics import name_problem

__all__ = [
    "ALL_KEYS",
    "IS_PUBLISHED_BY_CURSORS",
    "MESSAGES_WITH_CURSORS",
    "SHARD_CHANNEL",
    "Assignment",
    "BlockedKey",
    "Cursor",
    "ForeignCursor",
    "HashRange",
    "LeaseLost",
    "NoSuchShard",
    "Reading",
    "SequenceBehind",
    "Shard",
    "block_key",
    "blocked_keys",
    "bounded_by",
    "check_cluster_identity",
    "check_positions",
    "claim",
    "clear_in_flight",
    "decode_headers",
    "find_shard",
    "heartbeat",
    "join",
    "leave",
    "listen",
    "mark_in_flight",
    "name_problem",
    "prepare_session",
    "read",
    "read_batch",
    "read_key",
    "record_intent",
    "release_shard",
    "reload_shard",
    "renew",
    "save",
    "save_key",
    "shards",
    "wait_for_notify",
]
