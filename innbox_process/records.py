"""A Kafka record without the client library's types: what handlers see and dead letters keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import methodcaller
from uuid import NAMESPACE_URL, UUID, uuid5

from confluent_kafka import Message

_READ_HEADERS = methodcaller("headers")


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a topic, whose name is without the cluster's prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def message_id(self) -> UUID:
        """The CloudEvents id; without one, an id made of the record's location and content.

        The location alone is not enough: a topic that was created again has other messages there.
        """
        try:
            return UUID(self.headers["ce_id"])
        except (KeyError, ValueError):
            content = sha256(repr((self.key, self.value, sorted(self.headers.items()))).encode())
            location = f"kafka:{self.topic}/{self.partition}/{self.offset}"
            return uuid5(NAMESPACE_URL, f"{location}#{content.hexdigest()}")


def location_of(message: Message) -> tuple[str, int, int]:
    """Return topic, partition and offset, which every received message has."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None  # noqa: PT018
    return topic, partition, offset


def record_of(message: Message, prefix: str) -> Record:
    """Copy a message. Call it once: the client may crash when odd headers are read twice."""
    topic, partition, offset = location_of(message)
    key, value = _bytes(message.key()), _bytes(message.value())
    headers = {
        name: (_bytes(content) or b"").decode("utf-8", "replace")
        for name, content in _headers(message)
    }
    return Record(topic.removeprefix(prefix), partition, offset, key, value, headers)


def _headers(message: Message) -> Sequence[tuple[str, str | bytes | None]]:
    """Return the headers that the client can read: none if a name is not UTF-8.

    On such a name the client returns a broken list with an exception set. Python's own call of a
    method may be optimised not to notice, and touching the list would end the process; `methodcaller`
    always notices.
    """
    try:
        headers: Sequence[tuple[str, str | bytes | None]] = _READ_HEADERS(message) or ()
    except (SystemError, UnicodeDecodeError):
        return ()
    return headers


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
