"""Verifying from the outside whether the databases and the topics keep what innbox promises.

Nothing of the running system is asked, locked or written; it may be as busy as it likes. Everything goes
into a scratch db, where each invariant is a query for what breaks it (`history`, `delivery`, `inventory`,
`consumption`). The order of reading makes that safe (see `_read` and `relay.audit.snapshot`).

Each database is read in one REPEATABLE READ transaction: the reservations' first, then the rooms'. A
reservation settles after the rooms have committed their answer, so whatever the first snapshot shows
settled, the second shows answered. The other way round there is traffic in flight, which is explained by
the messages committed since the snapshots: they are added last of all and after the topics, found as the
relay finds them, by the difference of snapshots. No clock takes part in this.

What retention has dropped cannot be checked any more; it is counted in the notes, not held against
anybody. I10 (no saga stays open) and I11 (durable answers) need a witness inside and are left to tests.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

import outbox
from domain.messages import RESERVATIONS_SOURCE, ROOMS_SOURCE, TOPICS
from innbox_process.commands import Report
from ops.verify.consumption import I13, UNCONSUMED, passed_offsets
from ops.verify.delivery import I2, I8
from ops.verify.history import I1, I12
from ops.verify.inventory import I3, I4, I5, I6, I7, I9
from ops.verify.snapshot import SCHEMA, build_indexes, fields, of_record
from ops.verify.verdict import Finding, Verdict, judge
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
from relay.audit.snapshot.topics import read_topics
from runtime.settings import Context, Settings

__all__ = ["VIOLATIONS_NAMED_MAX", "Finding", "Verdict", "find_unconsumed", "verify"]

VIOLATIONS_NAMED_MAX = 100

INVARIANTS = (I1, I2, I3, I4, I5, I6, I7, I8, I9, I12, I13)

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

_UNCONSUMED_WITHIN = f"""
    SELECT message_id, topic, key, partition, offset, reservation_id, instead AS found
    FROM ({UNCONSUMED})
    WHERE coalesce(ce_time, 0) >= :since AND coalesce(ce_time, 0) < :until
    ORDER BY topic, partition, offset
"""


def silent(what: str, done: int, total: int | None) -> None:
    """Report to nobody."""


def verify(
    settings: Settings, *, report: Report = silent, named_max: int | None = VIOLATIONS_NAMED_MAX
) -> Verdict:
    """Check every invariant against the databases and topics of these settings, now.

    Of each, so many violations are named, or all; the counts have them all.

    `report` is told what is being read, how many rows so far, and of how many if that is known.
    Raises what Postgres or Kafka raise when they cannot be read, and TimeoutError.
    """
    with SnapshotDatabase(SCHEMA) as db:
        _read(db, settings, report)
        return judge(db, INVARIANTS, named_max)


def find_unconsumed(
    settings: Settings,
    report: Report,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    topics: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return the records, written in the window, that a consumer group is past without their effect.

    For an audit, which knows no domain. Raises what `verify` raises.
    """
    bounds = {
        "since": since.timestamp() if since else float("-inf"),
        "until": until.timestamp() if until else float("inf"),
    }
    with SnapshotDatabase(SCHEMA) as db:
        _read(db, settings, report)
        found = list(db.dict_rows(_UNCONSUMED_WITHIN, bounds))
    return [record for record in found if not topics or record["topic"] in topics]


def _read(db: SnapshotDatabase, settings: Settings, report: Report) -> None:
    """Enter offsets, databases (the reservations' first), topics, and what was committed meanwhile."""
    db.insert("passed", passed_offsets(settings))
    snapshots: dict[str, str] = {}
    topics = set(TOPICS)
    for url, contexts in settings.databases.items():
        with as_of_now(settings, url, "verify") as connection:
            snapshots[url] = snapshot(connection)
            topics.update(outbox.known_topics(connection))
            _enter(db, connection, contexts, report)
    read_topics(db, settings.kafka, settings.kafka_prefix, topics, report, of_record)
    for url, until in snapshots.items():
        with as_of_now(settings, url, "verify") as connection:
            rows = stream(connection, LATE_MESSAGES, {"snapshot": until})
            db.insert("message", reported("late messages", map(_message, rows), report))
    build_indexes(db)


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
