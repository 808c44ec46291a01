"""Reading the databases while the system runs.

Each database is read in one REPEATABLE READ transaction: the reservations' first, then the rooms'. A
reservation settles after the rooms have committed their answer, so whatever the first snapshot shows
settled, the second shows answered. The other way round there is traffic in flight, which `read_late`
explains, last of all and after the topics: it adds the messages committed since the snapshots, found
as the relay finds them, by the difference of snapshots. No clock takes part in this.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

import outbox
from domain.messages import RESERVATIONS_SOURCE, ROOMS_SOURCE
from innbox_process.commands import Report
from ops.verify.snapshot import fields
from outbox.reader import IS_PUBLISHED_BY_CURSORS, MESSAGES_WITH_CURSORS
from relay.audit.snapshot import SnapshotDatabase
from relay.audit.snapshot.snapshots import (
    COMMITTED_SINCE,
    as_of_now,
    complete_from,
    reported,
    snapshot,
    stream,
)
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

DEAD_LETTERS = 'SELECT topic, partition, "offset", state FROM consumers.dead_letter'

_MESSAGE = """message.position, message.message_id::text, message.topic, message.key,
    message.headers->>'ce_source', extract(epoch FROM message.created_at)::float8"""

# What an operator skipped was passed over on purpose.
MESSAGES = f"""
    SELECT {_MESSAGE},
           {IS_PUBLISHED_BY_CURSORS}
           AND (message.position, message.message_id) NOT IN (
               SELECT position, message_id FROM outbox.dead_letter),
           false, value
    FROM {MESSAGES_WITH_CURSORS}
"""

LATE_MESSAGES = f"""
    SELECT {_MESSAGE}, false, true, value FROM outbox.message WHERE {COMMITTED_SINCE}
"""


def read_databases(
    db: SnapshotDatabase, settings: Settings, report: Report
) -> tuple[dict[str, str], set[str]]:
    """Enter both contexts and their outboxes, each database as of one instant.

    Returns what was visible then, by the URL of each database, and the topics that they declare.
    """
    snapshots: dict[str, str] = {}
    topics: set[str] = set()
    for url, contexts in settings.databases.items():
        with as_of_now(settings, url, "verify") as connection:
            snapshots[url] = snapshot(connection)
            topics.update(outbox.known_topics(connection))
            _enter(db, connection, contexts, report)
    return snapshots, topics


def read_late(
    db: SnapshotDatabase, settings: Settings, snapshots: dict[str, str], report: Report
) -> None:
    """Enter the messages committed since the snapshots; call this after reading the topics."""
    for url, until in snapshots.items():
        with as_of_now(settings, url, "verify") as connection:
            rows = stream(connection, LATE_MESSAGES, {"snapshot": until})
            db.insert("message", reported("late messages", map(_message, rows), report))


def _enter(
    db: SnapshotDatabase, connection: Connection, contexts: Sequence[Context], report: Report
) -> None:
    kept_from = complete_from(connection)
    for context in contexts:
        db.insert("context", [(SOURCES[context], kept_from)])
        for table, query in TABLES[context].items():
            what = f"{table.replace('_', ' ')}s"
            db.insert(table, reported(what, stream(connection, query), report))

    db.insert("dead_letter", stream(connection, DEAD_LETTERS))
    messages = map(_message, stream(connection, MESSAGES))
    db.insert("message", reported("messages", messages, report))


def _message(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row, *fields(row[-1]))
