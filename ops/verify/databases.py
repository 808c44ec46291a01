"""Reading the databases while the system runs.

Each database is read in one REPEATABLE READ transaction: the reservations' first, then the rooms'. A
reservation settles after the rooms have committed their answer, so whatever the first snapshot shows
settled, the second shows answered. The other way round there is traffic in flight, which `read_late`
explains, last of all and after the topics: it adds the messages committed since the snapshots, found
as the relay finds them, by the difference of snapshots. No clock takes part in this.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

from sqlalchemy import Connection, text

import outbox
from domain.messages import RESERVATIONS_SOURCE, ROOMS_SOURCE
from ops.progress import Report
from ops.verify.ledger import ROWS_PER_INSERT, Ledger, fields
from runtime.database import direct_engine
from runtime.settings import Context, Settings

SOURCES: dict[Context, str] = {"reservations": RESERVATIONS_SOURCE, "rooms": ROOMS_SOURCE}

TABLES: dict[Context, dict[str, str]] = {
    "reservations": {
        "reservation": """
            SELECT id, room_id, check_in::text, check_out::text, status, reason, version,
                   extract(epoch FROM created_at)::float8
            FROM reservations.reservation
        """,
        "transition": """
            SELECT reservation_id, version, status, reason, message_id::text,
                   extract(epoch FROM created_at)::float8
            FROM reservations.transition
        """,
    },
    "rooms": {
        "allocation": """
            SELECT reservation_id, room_id, check_in::text, check_out::text, state, reason,
                   reserve_message_id::text, cancel_message_id::text
            FROM rooms.allocation
        """,
        "room_night": """
            SELECT room_id, night::text, capacity, taken, capacity_peak FROM rooms.room_night
        """,
        # A constraint that is not validated may have rows behind it that break it.
        "guard": """
            SELECT pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = 'rooms.room_night'::regclass AND contype = 'c' AND convalidated
        """,
    },
}

OPEN_DEAD_LETTERS = """
    SELECT topic, partition, "offset" FROM consumers.dead_letter WHERE state = 'OPEN'
"""

_MESSAGE = """message.position, message_id::text, topic, key, headers->>'ce_source',
    extract(epoch FROM created_at)::float8"""

# Relayed is what the shard's cursor has seen; in a backlog, also what it has published of that. A cursor
# is saved after the brokers' acknowledgement, so the topics, read later, must contain these.
MESSAGES = f"""
    SELECT {_MESSAGE},
           coalesce(
               pg_visible_in_snapshot(xid, snapshot) OR (
                   message.position <= shard.position AND pg_visible_in_snapshot(xid, batch_snapshot)
               ),
               false
           ), false, value
    FROM outbox.message
    LEFT JOIN outbox.shard ON key_hash >= hash_from AND key_hash < hash_to
"""

LATE_MESSAGES = f"""
    SELECT {_MESSAGE}, false, true, value FROM outbox.message
    WHERE xid >= pg_snapshot_xmax(CAST(:snapshot AS pg_snapshot))
       OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(CAST(:snapshot AS pg_snapshot))))
"""

FIRST_POSITION = text("SELECT min(position) FROM outbox.message")
SNAPSHOT = text("SELECT pg_current_snapshot()::text")
# A whole table takes longer than any request may.
NO_TIMEOUT = text("SET LOCAL statement_timeout = 0")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What was visible when each database, by its URL, was read; and the topics they declare."""

    by_url: dict[str, str]
    topics: frozenset[str]


def read_databases(ledger: Ledger, settings: Settings, report: Report) -> Snapshots:
    """Enter both contexts and their outboxes, each database as of one instant."""
    snapshots: dict[str, str] = {}
    topics: set[str] = set()
    for url, contexts in settings.databases.items():
        with _connect(settings, url) as connection, connection.begin():
            connection.execute(NO_TIMEOUT)
            snapshots[url] = connection.execute(SNAPSHOT).scalar_one()
            topics.update(outbox.known_topics(connection))
            _enter(ledger, connection, contexts, report)
    return Snapshots(snapshots, frozenset(topics))


def read_late(ledger: Ledger, settings: Settings, snapshots: Snapshots, report: Report) -> None:
    """Enter the messages committed since the snapshots; call this after reading the topics."""
    for url, snapshot in snapshots.by_url.items():
        with _connect(settings, url) as connection, connection.begin():
            connection.execute(NO_TIMEOUT)
            rows = _stream(connection, LATE_MESSAGES, {"snapshot": snapshot})
            ledger.insert("message", _reported("late messages", map(_message, rows), report))


def _connect(settings: Settings, url: str) -> Connection:
    engine = direct_engine(settings, url, "verify")
    # REPEATABLE READ: all statements of the transaction see the one snapshot.
    return engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    )


def _enter(
    ledger: Ledger, connection: Connection, contexts: Sequence[Context], report: Report
) -> None:
    complete_from = _complete_from(connection)
    for context in contexts:
        ledger.insert("context", [(SOURCES[context], complete_from)])
        for table, query in TABLES[context].items():
            what = f"{table.replace('_', ' ')}s"
            ledger.insert(table, _reported(what, _stream(connection, query), report))

    ledger.insert("dead_letter", _stream(connection, OPEN_DEAD_LETTERS))
    messages = map(_message, _stream(connection, MESSAGES))
    ledger.insert("message", _reported("messages", messages, report))


def _complete_from(connection: Connection) -> float:
    """When the oldest day begins that retention has kept; 0 if the very first message is still there."""
    days = outbox.partitions(connection)
    if not days or connection.execute(FIRST_POSITION).scalar_one() == 1:
        return 0.0

    return datetime.combine(min(days), time(), UTC).timestamp()


def _stream(
    connection: Connection, query: str, values: dict[str, str] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Rows from a cursor on the server, so that a table need not fit in memory."""
    streamed = {"stream_results": True, "max_row_buffer": ROWS_PER_INSERT}
    with connection.execute(text(query), values or {}, execution_options=streamed) as rows:
        # The size is said out loud: by themselves, partitions fetch all that is left in one piece.
        for part in rows.partitions(ROWS_PER_INSERT):
            yield from map(tuple, part)


def _message(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row, *fields(row[-1]))


def _reported(
    what: str, rows: Iterator[tuple[Any, ...]], report: Report
) -> Iterator[tuple[Any, ...]]:
    """Pass rows on and tell, now and then, how many there were."""
    count = 0
    for count, row in enumerate(rows, start=1):
        if count % ROWS_PER_INSERT == 0:
            report(what, count, None)
        yield row
    report(what, count, count)
