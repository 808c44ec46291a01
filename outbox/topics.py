"""Which topics exist, so that `append` can refuse what no broker would take.

The table is the record of what was created on the broker. It changes at deployments, so each engine
remembers what it read; whatever would be refused makes it look again first.
"""

import re
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert

from outbox.errors import InvalidTopicName, UnknownTopic
from outbox.tables import topic

# Key and headers of a message together; the headers as JSON, which is never shorter than their record.
HEADERS_BYTES_MAX = 65_536
# What surrounds one record on its way: 61 bytes of its batch, and lengths and numbers of varying size.
_AROUND_BYTES_MAX = 128
# Kafka's own limit. A client fills batches up to it without asking the topic, so none may take less.
_BATCH_BYTES_MAX = 1_048_588

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_NO_NAMES = frozenset({".", ".."})
# The brokers write these themselves, and take no message for them.
_OF_BROKERS = frozenset(
    {"__cluster_metadata", "__consumer_offsets", "__share_group_state", "__transaction_state"}
)

_remembered: WeakKeyDictionary[Engine, dict[str, int]] = WeakKeyDictionary()


def declare_topics(
    connection: Connection, value_bytes_max: Mapping[str, int], *, prefix: str = ""
) -> None:
    """Record topics, by name, with the largest value in bytes that each takes. Repeatable.

    Create a topic on the brokers first, with a `max.message.bytes` of `record_bytes_max` or more. The
    relay puts `prefix` before the names (`KAFKA_PREFIX`). If one cannot be the name of a topic, nothing
    is recorded, and `InvalidTopicName` is raised.
    """
    for name in value_bytes_max:
        if problem := name_problem(name) or name_problem(prefix + name):
            raise InvalidTopicName(name, problem)

    rows = [{"name": name, "value_bytes_max": most} for name, most in value_bytes_max.items()]
    statement = insert(topic).values(rows)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[topic.c.name],
            set_={"value_bytes_max": statement.excluded.value_bytes_max},
        )
    )


def name_problem(name: str) -> str | None:
    """Say why no message can be published to a topic of this full name; None if one can."""
    if name in _OF_BROKERS:
        return "the brokers keep this topic for themselves"
    if not _NAME.fullmatch(name) or name in _NO_NAMES:
        return (
            "the name of a topic has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-', the prefix "
            "included, and is neither '.' nor '..'"
        )
    return None


def known_topics(connection: Connection) -> dict[str, int]:
    """Return the declared topics, by name, each with its largest value in bytes."""
    rows = connection.execute(select(topic.c.name, topic.c.value_bytes_max))
    return {row.name: row.value_bytes_max for row in rows}


def record_bytes_max(value_bytes_max: int) -> int:
    """Return the least `max.message.bytes` with which a topic takes all that `append` lets in.

    The relay's producer needs a `message.max.bytes` as large, where that is above its default.
    """
    return max(_BATCH_BYTES_MAX, value_bytes_max + HEADERS_BYTES_MAX + _AROUND_BYTES_MAX)


def value_bytes_max(connection: Connection, name: str, *, wanted: int) -> int:
    """Return the largest value that a topic takes; raises `UnknownTopic`.

    What is remembered will do if it allows the wanted size.
    """
    remembered = _remembered.get(connection.engine, {})
    if remembered.get(name, -1) < wanted:
        remembered = _remembered[connection.engine] = known_topics(connection)
    return limit_of(name, remembered)


def limit_of(name: str, limits: Mapping[str, int]) -> int:
    """Return the largest value that a declared topic takes; raises `UnknownTopic`."""
    if name not in limits:
        raise UnknownTopic(name, limits)

    return limits[name]
