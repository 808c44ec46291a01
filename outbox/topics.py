"""Which topics exist, so that `append` can refuse what no broker would take.

The table is the record of what was created on the broker. It changes at deployments, so each engine
remembers what it read; whatever would be refused makes it look again first.
"""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert

from outbox.errors import UnknownTopic
from outbox.tables import topic

_remembered: WeakKeyDictionary[Engine, dict[str, int]] = WeakKeyDictionary()


def declare_topics(connection: Connection, value_bytes_max: Mapping[str, int]) -> None:
    """Record topics, by name, with the largest value in bytes that each takes. Repeatable."""
    rows = [{"name": name, "value_bytes_max": most} for name, most in value_bytes_max.items()]
    statement = insert(topic).values(rows)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[topic.c.name],
            set_={"value_bytes_max": statement.excluded.value_bytes_max},
        )
    )


def known_topics(connection: Connection) -> dict[str, int]:
    """Return the declared topics, by name, each with its largest value in bytes."""
    rows = connection.execute(select(topic.c.name, topic.c.value_bytes_max))
    return {row.name: row.value_bytes_max for row in rows}


def value_bytes_max(connection: Connection, name: str, *, wanted: int) -> int:
    """Return the largest value that a topic takes; raises `UnknownTopic`.

    What is remembered will do if it allows the wanted size.
    """
    remembered = _remembered.get(connection.engine, {})
    if remembered.get(name, -1) < wanted:
        remembered = _remembered[connection.engine] = known_topics(connection)
    if name not in remembered:
        raise UnknownTopic(name, remembered)

    return remembered[name]
