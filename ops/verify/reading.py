"""Filling the ledger in the order that makes reading a running system safe."""

from domain.messages import TOPICS
from innbox_process.commands import Report
from ops.verify.consumption import GROUPS
from ops.verify.databases import read_databases, read_late
from ops.verify.ledger import close_entry, record_row
from ops.verify.offsets import read_offsets
from relay.audit.ledger import Ledger
from relay.audit.ledger.topics import read_topics
from runtime.settings import Settings


def read_all(ledger: Ledger, settings: Settings, report: Report) -> None:
    """Enter offsets, databases, topics, and what was committed meanwhile."""
    read_offsets(ledger, settings, GROUPS)
    snapshots = read_databases(ledger, settings, report)
    topics = snapshots.topics | set(TOPICS)
    read_topics(ledger, settings.kafka, settings.kafka_prefix, topics, report, record_row)
    read_late(ledger, settings, snapshots, report)
    close_entry(ledger)
