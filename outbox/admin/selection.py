"""Which messages a replay is of: counted once, and then read in the order of their positions.

Only what the relay has published is selected; to publish anything else would be its first delivery, out
of its order. What was published is fixed by the cursors of all shards and blocked keys, taken together
when the messages are counted: so the set never grows, and only retention makes it smaller.

The log has no index on topics, keys or times. It is walked by position, a chunk at a time, in the
partitions of the days in question: no statement sorts, holds or locks more than a chunk of it.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow
from sqlalchemy import Connection, text

from outbox.reader.cluster_identity import check_cluster_identity
from outbox.reader.cursor import covers
from outbox.reader.driver import fetch

# Positions to a statement: some 50 ms where all of them are there and none is selected.
CHUNK = 100_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages that satisfy every kind of condition that is given; times are [since, until).

    With `positions`, ascending, each of the `message_ids` stands for one row: the one at the same place.
    """

    topics: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    message_ids: tuple[UUID, ...] = ()
    positions: tuple[int, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return any(columns_of(self).values())

    def behind(self, position: int, limit: int) -> "Selection":
        """Return the next rows of a selection by positions."""
        begin = bisect_right(self.positions, position)
        part = slice(begin, begin + limit)
        return replace(self, message_ids=self.message_ids[part], positions=self.positions[part])


@dataclass(frozen=True, slots=True)
class Extent:
    """A selection made fast: where its messages are, and what of them was published, as JSON."""

    selection: Selection
    first_position: int
    last_position: int
    first_at: datetime
    last_at: datetime
    cursors: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a selection has found: how many of each topic, and how many bytes the largest value has.

    `left_out` are selected, and not published yet or skipped by an operator. Without an extent there is
    nothing to publish again.
    """

    topics: dict[str, int]
    left_out: int
    value_bytes_max: int = 0
    extent: Extent | None = None

    @property
    def expected(self) -> int:
        return sum(self.topics.values())


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages, and the position up to which there are no others.

    A row is (position, topic, key, value, headers, message id), with headers as `outbox.reader.read`
    has them.
    `gone` names the rows that were selected by position and are no longer in the log.
    """

    rows: list[tuple[Any, ...]] = field(repr=False)
    position: int
    gone: tuple[UUID, ...] = ()


CURSORS = text("""
    SELECT coalesce(json_agg(place), '[]')::text FROM (
        SELECT hash_from, hash_to, NULL AS key, snapshot, batch_snapshot, position FROM outbox.shard
        UNION ALL
        SELECT key_hash, key_hash::bigint + 1, key, snapshot, batch_snapshot, position
        FROM outbox.blocked_key
    ) AS place
""")

# The ids are a table: it is hashed whatever the plan, and looked up once for each message. IS TRUE keeps
# the planner from making a join of it, which keeps no order.
_CONDITIONS = {
    "topics": "topic = ANY (%(topics)s::text[])",
    "keys": "key = ANY (%(keys)s::text[])",
    "message_ids": "(message_id IN (SELECT unnest(%(message_ids)s::uuid[]))) IS TRUE",
    "positions": "position = ANY (%(positions)s::bigint[])",
    "since": "created_at >= %(since)s::timestamptz",
    "until": "created_at < %(until)s::timestamptz",
}

_PLACES = """
    WITH place AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(cursors)s::json) AS given (
            hash_from bigint, hash_to bigint, key text,
            snapshot pg_snapshot, batch_snapshot pg_snapshot, position bigint
        )
    )
"""

# Whatever covers a message must have passed it: its shard's cursor, and its key's if that was blocked.
# Nearly all are older than any shard's snapshot, which is quickly told. NOT IN, here alone: it is a
# hashed look-up for each row, where NOT EXISTS would be a join, which keeps no order.
_IS_PUBLISHED = f"""(
    (position, message_id) NOT IN (SELECT position, message_id FROM outbox.dead_letter)
    AND (
        (xid < (SELECT min(pg_snapshot_xmin(snapshot)) FROM place WHERE key IS NULL)
         AND key NOT IN (SELECT key FROM place WHERE key IS NOT NULL))
        OR coalesce((
            SELECT bool_and({covers("place")}) FROM place
            WHERE message.key_hash >= hash_from AND message.key_hash < hash_to
              AND (place.key IS NULL OR place.key = message.key)), false)
    )
)"""

BOUNDS = "SELECT min(position), max(position) FROM outbox.message WHERE {when}"

COUNT = f"""
    {_PLACES}
    SELECT topic, is_published, count(*), min(position), max(position), min(created_at),
           max(created_at), max(octet_length(value))
    FROM (
        SELECT *, {_IS_PUBLISHED} AS is_published FROM outbox.message
        WHERE position > %(position)s::bigint AND position <= %(to)s::bigint AND {{selected}}
    ) AS selected
    GROUP BY topic, is_published
"""

ROWS = f"""
    {_PLACES}
    SELECT position, coalesce(%(to_topic)s::text, topic), key, value, headers, message_id
    FROM outbox.message
    WHERE position > %(position)s::bigint AND position <= %(to)s::bigint
      AND created_at >= %(first_at)s::timestamptz AND created_at <= %(last_at)s::timestamptz
      AND {{selected}} AND {_IS_PUBLISHED}
    ORDER BY position
    LIMIT %(limit)s
"""


def survey(
    connection: Connection, selection: Selection, report: Callable[[int, int], object]
) -> Survey:
    """Count what is selected, on a connection prepared as for `read`; nothing is locked or written.

    `report` hears how many positions have been looked at, and of how many. Raises `ForeignCursor`
    where it cannot be told what is published.
    """
    check_cluster_identity(connection)
    cursors: str = connection.execute(CURSORS).scalar_one()
    values = columns_of(selection) | {"cursors": cursors}
    days = _selected(Selection(since=selection.since, until=selection.until))
    ((first, last),) = fetch(connection, BOUNDS.format(when=days), values)
    if first is None:
        return Survey({}, 0)

    groups: list[TupleRow] = []
    for position in range(first - 1, last, CHUNK):
        to = min(position + CHUNK, last)
        chunk = values | {"position": position, "to": to}
        groups += fetch(connection, COUNT.format(selected=_selected(selection)), chunk)
        report(to - first + 1, last - first + 1)
    return _survey(selection, cursors, groups)


def read_selected(
    connection: Connection, extent: Extent, position: int, *, to_topic: str | None, limit: int
) -> Batch:
    """Read the next messages after a position, of one chunk: there may be none, and more after."""
    selection, to = extent.selection, min(position + CHUNK, extent.last_position)
    if selection.positions:
        selection = selection.behind(position, limit)
        to = selection.positions[-1]
    values = columns_of(extent) | columns_of(selection)
    values |= {"position": position, "to": to, "to_topic": to_topic, "limit": limit}
    rows = fetch(connection, ROWS.format(selected=_selected(selection)), values)
    return Batch(rows, rows[-1][0] if len(rows) == limit else to, _gone(selection, rows))


def columns_of(record: Selection | Extent) -> dict[str, Any]:
    """Return the fields as a statement binds them: an array is a list."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _gone(selection: Selection, rows: list[TupleRow]) -> tuple[UUID, ...]:
    if len(rows) == len(selection.positions):
        return ()
    here = {row[0] for row in rows}
    pairs = zip(selection.positions, selection.message_ids, strict=False)
    return tuple(message_id for position, message_id in pairs if position not in here)


def _survey(selection: Selection, cursors: str, groups: list[TupleRow]) -> Survey:
    left_out = sum(group[2] for group in groups if not group[1])
    published = sorted(group for group in groups if group[1])
    if not published:
        return Survey({}, left_out)

    names, _, counts, firsts, lasts, firsts_at, lasts_at, sizes = zip(*published, strict=True)
    topics = dict.fromkeys(names, 0)
    for name, count in zip(names, counts, strict=True):
        topics[name] += count
    first_at, last_at = min(firsts_at), max(lasts_at)
    extent = Extent(selection, min(firsts), max(lasts), first_at, last_at, cursors)
    return Survey(topics, left_out, max(sizes), extent)


def _selected(selection: Selection) -> str:
    given = [_CONDITIONS[name] for name, value in columns_of(selection).items() if value]
    return " AND ".join(given) or "true"
