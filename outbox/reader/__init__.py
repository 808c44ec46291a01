"""For relays: what is committed is read in order, from a shard's cursor on, and the cursor is saved.

    prepare_session(connection)
    shard = claim(connection, "a-relay", lease_s=30)
    batch = read(connection, shard.cursor, shard.hashes, limit=1_000)
    ...  # publish batch.rows
    shard = save(connection, shard, batch.cursor, lease_s=30)

The order and delivery guarantees are stated in `outbox.reader.difference`, those of leases in
`outbox.reader.shards`. Nothing here knows what the messages mean, nor the broker that carries them.
"""

from outbox.errors import ForeignCursor, LeaseLost, NoSuchShard, SequenceBehind
from outbox.reader.blocked_keys import (
    BlockedKey,
    block_key,
    blocked_keys,
    clear_in_flight,
    mark_in_flight,
    save_key,
)
from outbox.reader.cluster_identity import check_cluster_identity, check_positions
from outbox.reader.cursor import (
    ALL_KEYS,
    IS_PUBLISHED_BY_CURSORS,
    MESSAGES_WITH_CURSORS,
    Cursor,
    HashRange,
)
from outbox.reader.difference import ShardBatch, bounded_by, read, read_batch, read_key
from outbox.reader.driver import decode_headers, listen, prepare_session, wait_for_notify
from outbox.reader.membership import Assignment, heartbeat, join, leave
from outbox.reader.shards import (
    SHARD_CHANNEL,
    Shard,
    claim,
    find_shard,
    record_intent,
    release_shard,
    reload_shard,
    renew,
    save,
    shards,
)
from outbox.topics import name_problem

# By topic, in the order of "Every name" in docs/library.md.
__all__ = ["ALL_KEYS", "Cursor", "HashRange", "ShardBatch", "bounded_by", "decode_headers"]
__all__ += ["name_problem", "prepare_session", "read", "read_batch"]
__all__ += ["SHARD_CHANNEL", "LeaseLost", "NoSuchShard", "Shard", "claim", "find_shard", "shards"]
__all__ += ["release_shard", "renew", "save"]
__all__ += ["Assignment", "heartbeat", "join", "leave"]
__all__ += ["listen", "wait_for_notify"]
__all__ += ["BlockedKey", "block_key", "blocked_keys", "read_key", "save_key"]
__all__ += ["clear_in_flight", "mark_in_flight"]
__all__ += ["record_intent", "reload_shard"]
__all__ += ["ForeignCursor", "SequenceBehind", "check_cluster_identity", "check_positions"]
__all__ += ["IS_PUBLISHED_BY_CURSORS", "MESSAGES_WITH_CURSORS"]
