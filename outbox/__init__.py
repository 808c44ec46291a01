"""A transactional outbox on Postgres: what a transaction appends is published if it commits, else never.

Appending needs a SQLAlchemy connection or session, with or without asyncio, and nothing else:

    with engine.begin() as connection:
        ...
        outbox.append(connection, [Message(topic="orders", key="7", type="order.placed", value=b"{}")])

A relay reads the messages with `read`, publishes them, and saves its cursor with `save`; the order and
delivery guarantees are stated in `outbox.diff` and `outbox.shards`. This package knows nothing of
what the messages mean, nor of the broker that carries them.
"""

from outbox.announce import announce, reread
from outbox.append import (
    Appendable,
    Message,
    append,
    append_async,
    append_within,
    prepare,
)
from outbox.backlog import backlogs, count_backlog
from outbox.blocked import (
    BlockedKey,
    block_key,
    blocked_keys,
    retry_all_keys,
    retry_key,
    save_key,
)
from outbox.diff import (
    WHOLE,
    Cursor,
    HashRange,
    Reading,
    batch_until,
    decode_headers,
    prepare_session,
    read,
    read_batch,
    read_key,
)
from outbox.doorbell import CHANNEL, Doorbell, hear, install_doorbell, listen
from outbox.errors import (
    CursorFromElsewhere,
    HeadersTooLarge,
    InvalidTopicName,
    KeyMissing,
    KeyNotBlocked,
    LeaseLost,
    NoSuchShard,
    NotNeighbours,
    OutboxError,
    SequenceBehind,
    ShardReserved,
    StillRelayed,
    TransactionIdsRestarted,
    UnknownTopic,
    ValueTooLarge,
)
from outbox.jobs import JobLease, JobRecord
from outbox.origin import check_origin, check_positions
from outbox.rebase import Outlook, foresee, rebase
from outbox.resharding import merge, reserve, split, withdraw
from outbox.retention import (
    PartitionChanges,
    ensure_partitions,
    partitions,
    retire_partitions,
    settle_strays,
)
from outbox.sequences import Sequence, advance, sequences_behind
from outbox.shards import (
    RELEASES,
    Shard,
    claim,
    find_shard,
    release,
    renew,
    save,
    shards,
)
from outbox.shares import Standing, arrive, beat, leave
from outbox.skipped import skip_message
from outbox.tables import metadata
from outbox.topics import declare_topics, known_topics, record_bytes_max
from outbox.touches import touch, untouch

__all__ = [
    "CHANNEL",
    "RELEASES",
    "WHOLE",
    "Appendable",
    "BlockedKey",
    "Cursor",
    "CursorFromElsewhere",
    "Doorbell",
    "HashRange",
    "HeadersTooLarge",
    "InvalidTopicName",
    "JobLease",
    "JobRecord",
    "KeyMissing",
    "KeyNotBlocked",
    "LeaseLost",
    "Message",
    "NoSuchShard",
    "NotNeighbours",
    "OutboxError",
    "Outlook",
    "PartitionChanges",
    "Reading",
    "Sequence",
    "SequenceBehind",
    "Shard",
    "ShardReserved",
    "Standing",
    "StillRelayed",
    "TransactionIdsRestarted",
    "UnknownTopic",
    "ValueTooLarge",
    "advance",
    "announce",
    "append",
    "append_async",
    "append_within",
    "arrive",
    "backlogs",
    "batch_until",
    "beat",
    "block_key",
    "blocked_keys",
    "check_origin",
    "check_positions",
    "claim",
    "count_backlog",
    "declare_topics",
    "decode_headers",
    "ensure_partitions",
    "find_shard",
    "foresee",
    "hear",
    "install_doorbell",
    "known_topics",
    "leave",
    "listen",
    "merge",
    "metadata",
    "partitions",
    "prepare",
    "prepare_session",
    "read",
    "read_batch",
    "read_key",
    "rebase",
    "record_bytes_max",
    "release",
    "renew",
    "reread",
    "reserve",
    "retire_partitions",
    "retry_all_keys",
    "retry_key",
    "save",
    "save_key",
    "sequences_behind",
    "settle_strays",
    "shards",
    "skip_message",
    "split",
    "touch",
    "untouch",
    "withdraw",
]
