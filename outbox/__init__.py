"""A transactional outbox on Postgres: what a transaction appends is published if it commits, else never.

Appending needs a SQLAlchemy connection and nothing else:

    with engine.begin() as connection:
        ...
        outbox.append(connection, [Message(topic="orders", key="7", type="order.placed", value=b"{}")])

A relay reads the messages with `read`, publishes them, and saves its cursor with `save`; the order and
delivery guarantees are stated in `outbox.diff` and `outbox.shards`. This package knows nothing of
what the messages mean, nor of the broker that carries them.
"""

from outbox.append import Appendable, Message, append
from outbox.diff import Cursor, HashRange, Reading, decode_headers, prepare_session, read
from outbox.doorbell import CHANNEL, Doorbell, hear, install_doorbell, listen
from outbox.errors import (
    HeadersTooLarge,
    KeyMissing,
    LeaseLost,
    OutboxError,
    UnknownTopic,
    ValueTooLarge,
)
from outbox.retention import PartitionChanges, ensure_partitions, partitions, retire_partitions
from outbox.shards import RELEASES, Shard, claim, release, renew, save, shards
from outbox.tables import metadata
from outbox.topics import declare_topics, known_topics

__all__ = [
    "CHANNEL",
    "RELEASES",
    "Appendable",
    "Cursor",
    "Doorbell",
    "HashRange",
    "HeadersTooLarge",
    "KeyMissing",
    "LeaseLost",
    "Message",
    "OutboxError",
    "PartitionChanges",
    "Reading",
    "Shard",
    "UnknownTopic",
    "ValueTooLarge",
    "append",
    "claim",
    "declare_topics",
    "decode_headers",
    "ensure_partitions",
    "hear",
    "install_doorbell",
    "known_topics",
    "listen",
    "metadata",
    "partitions",
    "prepare_session",
    "read",
    "release",
    "renew",
    "retire_partitions",
    "save",
    "shards",
]
