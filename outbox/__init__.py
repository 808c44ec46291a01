"""A transactional outbox on Postgres: what a transaction appends is published if it commits, else never.

Appending needs a SQLAlchemy connection or session, with or without asyncio, and nothing else:

    with engine.begin() as connection:
        ...
        outbox.append(connection, [Message(topic="orders", key="7", type="order.placed", value=b"{}")])

This is the face for applications. Beside it are `outbox.reader` for relays, `outbox.admin` for operators,
`outbox.schema` for migrations and `outbox.testing` for tests; every other module is private. The package
knows nothing of what the messages mean, nor of the broker that carries them.
"""

from outbox.append import (
    Appendable,
    Message,
    append,
    append_async,
    append_within,
    prepare,
)
from outbox.doorbell import DOORBELL_CHANNEL, Doorbell, install_doorbell
from outbox.errors import (
    HeadersTooLarge,
    InvalidTopicName,
    KeyMissing,
    OutboxError,
    UnknownTopic,
    ValueTooLarge,
)
from outbox.jobs import JobLease, JobRecord
from outbox.tables import metadata
from outbox.topics import declare_topics, known_topics, record_bytes_max

__all__ = [
    "DOORBELL_CHANNEL",
    "Appendable",
    "Doorbell",
    "HeadersTooLarge",
    "InvalidTopicName",
    "JobLease",
    "JobRecord",
    "KeyMissing",
    "Message",
    "OutboxError",
    "UnknownTopic",
    "ValueTooLarge",
    "append",
    "append_async",
    "append_within",
    "declare_topics",
    "install_doorbell",
    "known_topics",
    "metadata",
    "prepare",
    "record_bytes_max",
]
