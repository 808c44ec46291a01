"""A transactional outbox on Postgres: what a transaction appends is published if it commits, else never.

Appending needs a SQLAlchemy connection or session, with or without asyncio, and nothing else:

    with engine.begin() as connection:
        ...
        outbox.append(connection, [Message(topic="orders", key="7", type="order.placed", value=b"{}")])

This is the face for applications. Beside it are `outbox.reader` for relays, `outbox.admin` for operators,
`outbox.schema` for migrations and `outbox.testing` for tests; every other module is private. The package
knows nothing of what the messages mean, nor of the broker that carries them.
"""

from outbox.append import Appendable, Message, append, append_async, append_within, prepare
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
from outbox.pacing import Pace
from outbox.tables import metadata
from outbox.topics import declare_topics, known_topics, record_bytes_max

# By topic, in the order of "Every name" in docs/library.md.
__all__ = ["Appendable", "Message", "append", "append_async", "append_within", "prepare"]
__all__ += ["declare_topics", "known_topics", "record_bytes_max"]
__all__ += ["DOORBELL_CHANNEL", "Doorbell", "Pace", "install_doorbell"]
__all__ += ["JobLease", "JobRecord"]
__all__ += ["metadata"]
__all__ += ["HeadersTooLarge", "InvalidTopicName", "KeyMissing", "OutboxError", "UnknownTopic"]
__all__ += ["ValueTooLarge"]
