"""Filling the snapshot database in the order that makes reading a running system safe."""

from domain.messages import TOPICS
from innbox_process.commands import Report
from ops.verify.consumption import GROUPS
from ops.verify.databases import read_databases, read_late
from ops.verify.offsets import read_offsets
from ops.verify.snapshot import build_indexes, record_row
from relay.audit.snapshot import SnapshotDatabase
from relay.audit.snapshot.topics import read_topics
from runtime.settings import Settings


def read_all(db: SnapshotDatabase, settings: Settings, report: Report) -> None:
    """Enter offsets, databases, topics, and what was committed meanwhile."""
    read_offsets(db, settings, GROUPS)
    snapshots = read_databases(db, settings, report)
    topics = snapshots.topics | set(TOPICS)
    read_topics(db, settings.kafka, settings.kafka_prefix, topics, report, record_row)
    read_late(db, settings, snapshots, report)
    build_indexes(db)
