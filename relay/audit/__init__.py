"""Auditing any use of the outbox from the outside: what was committed is published, once, in order.

Nothing of the running system is asked, locked or written; it may be as busy as it likes. Everything goes
into a snapshot database, read in an order that raises no false alarm (see `snapshot`). A message that is
committed and not relayed yet waits; that is no finding, nor is what an operator blocked or skipped
(`tables`).

The window says which messages are judged. Topics are read from a little before its beginning up to their
ends, since messages are published after they are created. A record of these outboxes is unknown if its
own time, `ce_time`, lies in the window and no database has a message of its id, of whatever time. Which
sources are theirs is learnt from the messages themselves, for nothing is known here of what they mean.

A record that a mend or a replay published says so in a header. It came when it came: it is no repetition
by the relay, and where it is the first of its message, it is held only against others of the same run.
"""

from collections.abc import Collection

from innbox_process.commands import CommandError, Report
from relay.audit.databases import (
    Sources,
    Window,
    declared_topics,
    look_up,
    read_late,
    read_window,
)
from relay.audit.order import find_inversions
from relay.audit.outcome import Audit, Finding, TopicAudit, conclude
from relay.audit.partitioner import partition_of
from relay.audit.snapshot import CLOCKS_DIFFER_S, SnapshotDatabase
from relay.audit.snapshot.topics import read_topics
from relay.audit.tables import (
    EXPLAINED,
    FINDINGS,
    INDEXES,
    JUDGED,
    SCHEMA,
    TRIMMED,
    TRIMMED_ANYWHERE,
    UNKNOWN_IDS,
    UNKNOWN_RECORDS,
)

__all__ = ["Audit", "Finding", "Sources", "TopicAudit", "Window", "audit"]

# What the relay's producer uses unless its properties name another.
_MURMUR2 = {"murmur2", "murmur2_random"}


def audit(
    sources: Sources,
    window: Window,
    report: Report,
    *,
    topics: Collection[str] = (),
    exactly_once: bool = False,
    named_max: int | None = None,
) -> Audit:
    """Audit the outboxes of these sources, and their topics or some.

    `report` is told what is being read, how many rows so far, and of how many if that is known. Raises
    `CommandError` for what cannot be audited, what Postgres or Kafka raise, and TimeoutError.
    """
    declared = declared_topics(sources)
    if undeclared := set(topics) - declared:
        raise CommandError(
            f"No outbox declares {', '.join(sorted(undeclared))}; there are: "
            f"{', '.join(sorted(declared)) or 'none'}."
        )
    with SnapshotDatabase(SCHEMA) as db:
        db.create_function("partition_of", 2, partition_of)
        snapshots = read_window(db, sources, window, topics, report)
        read = set(topics) or declared | set(db.column("SELECT DISTINCT topic FROM message"))
        begins_at = window.since.timestamp() - CLOCKS_DIFFER_S if window.since else None
        read_topics(
            db,
            sources.kafka,
            sources.topic_prefix,
            read,
            report,
            lambda record, published_at: (record.headers.get("ce_id"), published_at),
            since=begins_at,
        )
        read_late(db, sources, snapshots)
        _judge(db, sources, report)
        return conclude(db, read, window, exactly_once=exactly_once, named_max=named_max)


def _judge(db: SnapshotDatabase, sources: Sources, report: Report) -> None:
    is_murmur2 = sources.kafka.get("partitioner", "murmur2") in _MURMUR2
    db.run(INDEXES, TRIMMED if is_murmur2 else TRIMMED_ANYWHERE, JUDGED, UNKNOWN_RECORDS, EXPLAINED)
    look_up(db, sources, db.column(UNKNOWN_IDS), report)
    db.run(EXPLAINED)
    find_inversions(db)
    db.run(FINDINGS)
