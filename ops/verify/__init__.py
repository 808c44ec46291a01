"""Verifying from the outside whether the databases and the topics keep what innbox promises.

Nothing of the running system is asked, locked or written; it may be as busy as it likes. The order of
reading makes that safe (see `_read` and `relay.audit.snapshot`). Everything goes into a scratch db, where
each invariant is a query for what breaks it (`history`, `delivery`, `inventory`, `consumption`).

What retention has dropped cannot be checked any more; it is counted in the notes, not held against
anybody. I10 (no saga stays open) and I11 (durable answers) need a witness inside and are left to tests.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from domain.messages import TOPICS
from innbox_process.commands import Report
from ops.verify.consumption import I13, UNCONSUMED, read_offsets
from ops.verify.databases import read_databases, read_late
from ops.verify.delivery import I2, I8
from ops.verify.history import I1, I12
from ops.verify.inventory import I3, I4, I5, I6, I7, I9
from ops.verify.snapshot import SCHEMA, build_indexes, record_row
from ops.verify.verdict import Finding, Verdict, judge
from relay.audit.snapshot import SnapshotDatabase
from relay.audit.snapshot.topics import read_topics
from runtime.settings import Settings

__all__ = ["VIOLATIONS_NAMED_MAX", "Finding", "Verdict", "find_unconsumed", "verify"]

VIOLATIONS_NAMED_MAX = 100

INVARIANTS = (I1, I2, I3, I4, I5, I6, I7, I8, I9, I12, I13)

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
    read_offsets(db, settings)
    snapshots, declared = read_databases(db, settings, report)
    topics = declared | set(TOPICS)
    read_topics(db, settings.kafka, settings.kafka_prefix, topics, report, record_row)
    read_late(db, settings, snapshots, report)
    build_indexes(db)
