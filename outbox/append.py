"""Appending: the one write an application makes.

`append` borrows the caller's transaction and never commits or rolls back. What it records is seen by
the relay if, and only if, that transaction commits. Messages of one key are published in commit order
when their writers hold a common lock (the aggregate's row) from before the append until the commit; a
writer without such a lock passes `lock_keys=True`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import Connection, text

from outbox.doorbell import mark
from outbox.errors import HeadersTooLarge, KeyMissing, ValueTooLarge
from outbox.topics import HEADERS_BYTES_MAX, limit_of, value_bytes_max

if TYPE_CHECKING:
    # Neither the ORM nor, without greenlet, `sqlalchemy.ext.asyncio` need be there to append.
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session, scoped_session


class Appendable(Protocol):
    """What a message must have; any class of the caller's with these attributes will do.

    `value` is sent as it is. `headers` come after those of CloudEvents and may replace them.
    """

    @property
    def message_id(self) -> UUID: ...
    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def value(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Message:
    """A message for callers without a class of their own.

    `type` and `source` are those of CloudEvents 1.0. `key` orders: messages of one key keep their order,
    in one partition. `message_id` tells a consumer that it has the message already.
    """

    topic: str
    key: str
    type: str
    value: bytes
    source: str = "/"
    message_id: UUID = field(default_factory=uuid4)
    headers: Mapping[str, str] = field(default_factory=dict)


# The arrays are read in their own order, and the default draws positions in that order, so the messages
# of one call keep the order in which the caller gave them. The headers are one document, because the
# driver would have to escape each of an array's.
APPEND = text("""
    INSERT INTO outbox.message (message_id, topic, key, value, headers)
    SELECT message_id, topic, key, value, headers
    FROM ROWS FROM (
        unnest(
            CAST(:message_ids AS uuid[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
            CAST(:values AS bytea[])
        ),
        json_array_elements(CAST(:headers AS json))
    ) WITH ORDINALITY AS given (message_id, topic, key, value, headers, ordinal)
    ORDER BY ordinal
""")

# The same for one message, as a part of a statement of the caller's.
_APPEND_WITHIN = """
    INSERT INTO outbox.message (message_id, topic, key, value, headers)
    SELECT CAST(:outbox_message_id AS uuid), CAST(:outbox_topic AS text), CAST(:outbox_key AS text),
           {value}, CAST(:outbox_headers AS json)
    FROM {rows}
"""

# Sorted, so that two callers with the same keys cannot wait for each other in a ring.
LOCK_KEYS = text("""
    SELECT pg_advisory_xact_lock(hashtextextended(key, 0))
    FROM (SELECT DISTINCT unnest(CAST(:keys AS text[])) AS key ORDER BY key) AS sorted
""")


def append(
    connection: "Connection | Session | scoped_session[Any]",
    messages: Iterable[Appendable],
    *,
    headers: Mapping[str, str] | None = None,
    lock_keys: bool = False,
) -> None:
    """Record messages in the caller's transaction.

    The relay sees them if, and only if, that transaction commits; in autocommit there is none to share.
    `headers` (a `traceparent`, say) go with each of them, beside its own. With `lock_keys` the keys are
    locked until the transaction ends, for writers that share no other lock. A session is flushed first:
    its rows must be locked before the messages take their places. Raises `UnknownTopic`, `KeyMissing`,
    `ValueTooLarge` or `HeadersTooLarge` before anything is written, and `TypeError` for a header that is
    no string.
    """
    given = list(messages)
    if not given:
        return

    if not isinstance(connection, Connection):
        connection.flush()
        connection = connection.connection()
    time = datetime.now(UTC).isoformat()
    all_headers = [_cloud_event(message, time, headers or {}) for message in given]
    for message, encoded in zip(given, all_headers, strict=True):
        most = value_bytes_max(connection, message.topic, wanted=len(message.value))
        _refuse_unpublishable(message, encoded, most)
    columns = {
        "message_ids": [message.message_id for message in given],
        "topics": [message.topic for message in given],
        "keys": [message.key for message in given],
        "values": [message.value for message in given],
        "headers": f"[{','.join(all_headers)}]",
    }
    if lock_keys:
        connection.execute(LOCK_KEYS, columns)
    connection.execute(APPEND, columns)
    mark(connection)


def append_within(*, value: str, rows: str) -> str:
    """Return SQL that appends one message for each of `rows`, for a CTE of a statement of your own.

    `value` is an expression of type bytea over those rows, which may have what the statement itself has
    drawn: an id, say. Execute it with the binds that `prepare` gives, among your own.
    """
    return _APPEND_WITHIN.format(value=value, rows=rows)


def prepare(
    message: Appendable, limits: Mapping[str, int], *, headers: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Check a message as `append` does, and return its binds for `append_within`.

    `limits` are the declared topics (`known_topics`); nothing is asked of the database. Give the message
    a value as long as the longest that the statement may make. Ring the doorbell after the commit: no
    connection is marked.
    """
    encoded = _cloud_event(message, datetime.now(UTC).isoformat(), headers or {})
    _refuse_unpublishable(message, encoded, limit_of(message.topic, limits))
    return {
        "outbox_message_id": message.message_id,
        "outbox_topic": message.topic,
        "outbox_key": message.key,
        "outbox_headers": encoded,
    }


async def append_async(
    connection: "AsyncConnection | AsyncSession",
    messages: Iterable[Appendable],
    *,
    headers: Mapping[str, str] | None = None,
    lock_keys: bool = False,
) -> None:
    """Do as `append` does, and by it, for an asynchronous connection or session."""
    await connection.run_sync(append, messages, headers=headers, lock_keys=lock_keys)


def _refuse_unpublishable(message: Appendable, headers: str, most: int) -> None:
    if not message.key:
        raise KeyMissing(message.topic)

    value_bytes = len(message.value)
    if value_bytes > most:
        raise ValueTooLarge(message.topic, value_bytes, most)

    beside_value_bytes = len(message.key.encode()) + len(headers.encode())
    if beside_value_bytes > HEADERS_BYTES_MAX:
        raise HeadersTooLarge(message.topic, beside_value_bytes, HEADERS_BYTES_MAX)


def _cloud_event(message: Appendable, time: str, headers: Mapping[str, str]) -> str:
    """Return the CloudEvents 1.0 headers of the Kafka binding's binary mode, as JSON."""
    every = {
        "ce_specversion": "1.0",
        "ce_id": str(message.message_id),
        "ce_type": message.type,
        "ce_source": message.source,
        "ce_time": time,
        "content-type": "application/json",
        **headers,
        **message.headers,
    }
    for name, value in every.items():
        if not isinstance(value, str):  # the relay could not send it, ever
            raise TypeError(f"header {name!r} of a message for {message.topic!r} is no string")
    return msgspec.json.encode(every).decode()
