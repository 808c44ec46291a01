"""Reading the outboxes: the window's messages as of one instant, and what else may explain a record."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, text

import outbox
from innbox_process.commands import CommandError, Report
from innbox_process.config import DatabaseConfig, DatabaseSettings
from outbox import reader
from outbox.reader import IS_PUBLISHED_BY_CURSORS, MESSAGES_WITH_CURSORS
from relay.audit.snapshot import SnapshotDatabase, seconds
from relay.audit.snapshot.snapshots import (
    COMMITTED_SINCE,
    as_of_now,
    complete_from,
    reported,
    snapshot,
    stream,
)
from relay.databases import Database

IDS_PER_LOOK = 10_000
_EVER = 1e18


@dataclass(frozen=True, slots=True)
class Window:
    """Which messages are judged: from `since` until before `until`; None is no bound.

    A message is created, for this, when its writer's transaction began, on the database's clock.
    """

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What is audited, and with what: databases with their outboxes, and the topics of one cluster.

    `others` are databases that are not judged, whose messages may explain a record all the same.
    `kafka` are the properties of a client, and `topic_prefix` is before every topic.
    """

    databases: tuple[Database, ...]
    kafka: Mapping[str, Any] = field(repr=False)
    topic_prefix: str = ""
    others: tuple[Database, ...] = ()
    database: DatabaseSettings = field(default_factory=DatabaseConfig)

    def as_of_now(self, database: Database) -> AbstractContextManager[Connection]:
        return as_of_now(self.database, database.url, "audit")


HAS_COMMIT_TIMES = text("SELECT current_setting('track_commit_timestamp')::boolean")
_COMMITTED_AT = "extract(epoch FROM pg_xact_commit_timestamp(message.xid::xid))::float8"

# Both bounds always: the planner leaves out the partitions of other days.
_OF_THE_WINDOW = """message.created_at >= CAST(:since AS timestamptz)
    AND message.created_at < CAST(:until AS timestamptz)
    AND (CAST(:topics AS text[]) IS NULL OR message.topic = ANY (CAST(:topics AS text[])))"""

MESSAGES = f"""
    SELECT :home, message.position, message.message_id::text, message.headers->>'ce_id', message.topic,
           message.key, message.headers->>'ce_source', message.xid::text::bigint,
           extract(epoch FROM message.created_at)::float8, message.headers->>'ce_time',
           {{committed_at}}, {IS_PUBLISHED_BY_CURSORS}, blocked_key.key IS NOT NULL,
           (message.position, message.message_id) IN (
               SELECT position, message_id FROM outbox.dead_letter)
    FROM {MESSAGES_WITH_CURSORS} WHERE {_OF_THE_WINDOW}
"""

RECENT_SOURCES = """
    SELECT DISTINCT :home, headers->>'ce_source'
    FROM (SELECT headers FROM outbox.message ORDER BY position DESC LIMIT 10000) AS newest
"""
ACKNOWLEDGED = """
    SELECT :home, kind, topic, message_id::text, acknowledged_by,
           to_char(acknowledged_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), reason
    FROM outbox.acknowledgement WHERE mended_by IS NULL
"""
LATE = f"SELECT headers->>'ce_id' FROM outbox.message WHERE {COMMITTED_SINCE}"
# From the array as a table: it is hashed whatever the plan, and looked up once for each message.
NAMED = """
    SELECT headers->>'ce_id' FROM outbox.message
    WHERE headers->>'ce_id' IN (SELECT unnest(CAST(:ids AS text[])))
"""


def declared_topics(sources: Sources) -> set[str]:
    found: set[str] = set()
    for one in sources.databases:
        with sources.as_of_now(one) as connection:
            found |= outbox.known_topics(connection).keys()
    return found


def read_window(
    db: SnapshotDatabase,
    sources: Sources,
    window: Window,
    topics: Collection[str],
    report: Report,
) -> list[str]:
    """Enter the window's messages of each database, of these topics or, if none are named, of all.

    Returns the snapshots that they were read in.
    """
    since = window.since.timestamp() if window.since else -_EVER
    db.insert("bounds", [(since, window.until.timestamp() if window.until else _EVER)])
    values = {
        "since": window.since.isoformat() if window.since else "-infinity",
        "until": window.until.isoformat() if window.until else "infinity",
        "topics": sorted(topics) or None,
    }
    snapshots = []
    for number, one in enumerate(sources.databases):
        with sources.as_of_now(one) as connection:
            _enter(db, connection, one.name, values | {"home": number}, report)
            snapshots.append(snapshot(connection))
    return snapshots


def _enter(
    db: SnapshotDatabase, connection: Connection, name: str, values: dict[str, Any], report: Report
) -> None:
    try:
        reader.check_cluster_identity(connection)
    except reader.ForeignCursor as error:
        raise CommandError(f"{name}: {error}") from error
    home = {"home": values["home"]}
    has_commit_times = connection.execute(HAS_COMMIT_TIMES).scalar_one()
    db.insert("home", [(home["home"], name, complete_from(connection), has_commit_times)])
    query = MESSAGES.format(committed_at=_COMMITTED_AT if has_commit_times else "NULL::float8")
    rows = map(_message, stream(connection, query, values))
    db.insert("message", reported(f"messages of {name}", rows, report))
    db.insert("recent", stream(connection, RECENT_SOURCES, home))
    db.insert("acknowledged", stream(connection, ACKNOWLEDGED, home))


def read_late(db: SnapshotDatabase, sources: Sources, snapshots: Iterable[str]) -> None:
    """Enter the ids of what was committed since the snapshots; call this after reading the topics."""
    for one, since in zip(sources.databases, snapshots, strict=True):
        with sources.as_of_now(one) as connection:
            db.insert("known", stream(connection, LATE, {"snapshot": since}))


def look_up(
    db: SnapshotDatabase, sources: Sources, event_ids: Iterable[str], report: Report
) -> None:
    """Enter those of the ids that any database has a message for, of any time.

    Each look goes through a whole outbox; at the edges of a window there are few to look for.
    """
    ids, done = iter(event_ids), 0
    while chunk := list(islice(ids, IDS_PER_LOOK)):
        for one in (*sources.databases, *sources.others):
            with sources.as_of_now(one) as connection:
                db.insert("known", stream(connection, NAMED, {"ids": chunk}))
        done += len(chunk)
        report("records without a message in the window", done, None)


def _message(row: tuple[Any, ...]) -> tuple[Any, ...]:
    *identity, created_at, ce_time, committed_at, relayed, blocked, skipped = row
    if committed_at is not None and committed_at < created_at:
        committed_at = None  # another transaction's of the same id, as after a restore
    appended_at = _appended_at(created_at, seconds(ce_time), committed_at)
    return (*identity, created_at, appended_at, committed_at, relayed, blocked, skipped)


def _appended_at(created_at: float, written_at: float | None, committed_at: float | None) -> float:
    """When the message was appended.

    The writer's clock is believed where it agrees with the database's, which knows when the transaction
    began and when it was committed. Else the beginning is meant, which is certainly not too late.
    """
    if written_at is None or written_at < created_at or written_at > (committed_at or 1e18):
        return created_at
    return written_at
