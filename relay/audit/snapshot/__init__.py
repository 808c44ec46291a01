"""The snapshot database: what databases and topics say, side by side in one scratch SQLite file.

A question that spans several databases and Kafka becomes one query. Rows stream into the file and memory
stays bounded, however much there is; nothing of the running system is locked or written. Instants are
seconds since 1970.

What makes reading a running system safe is the order: each database as of one instant (`snapshots`),
then the topics up to the ends they have by then (`topics`), then what was committed meanwhile. Whatever
a database showed as relayed was acknowledged before, and so is in the topics.
"""

from relay.audit.snapshot.database import (
    CLOCKS_DIFFER_S,
    ROWS_PER_INSERT,
    SnapshotDatabase,
    seconds,
)

__all__ = ["CLOCKS_DIFFER_S", "ROWS_PER_INSERT", "SnapshotDatabase", "seconds"]
