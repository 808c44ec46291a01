"""Housekeeping: partitions made ahead and dropped in time, by one elected relay.

A run that does not get a lock in time (it waits a moment only, so as never to hold up writers) leaves
everything as it was, and the next run tries again. Of an outbox of another cluster it touches nothing:
what is published there is not known yet, and a message that is moved could no longer be told from a
restored one.
"""

from datetime import UTC, timedelta

import structlog
from sqlalchemy import Engine, func, select

from innbox_process.database import be_patient
from outbox import admin, reader
from relay.config import RelayConfig
from relay.metrics import BACKLOG, PARTITIONS

_log = structlog.get_logger(__name__)


def maintain_partitions_once(engine: Engine, config: RelayConfig) -> admin.PartitionChanges:
    """Make the partitions that are due and drop those that are past retention and wholly relayed."""
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        be_patient(connection)  # to empty the default partition may take minutes
        try:
            with connection.begin():
                reader.check_cluster_identity(connection)
                BACKLOG.set(admin.count_backlog(connection))
        except reader.ForeignCursor as error:
            _log.warning("partition maintenance skipped", reason=str(error))
            return admin.PartitionChanges([], [])
        with connection.begin():
            now = connection.execute(select(func.now())).scalar_one().astimezone(UTC)
            tomorrow, ahead = now.date() + timedelta(days=1), config.partitions_ahead_days - 1
            made = admin.ensure_partitions(connection, tomorrow, days_ahead=ahead)
        with connection.begin():
            changes = admin.retire_partitions(connection, now, retention_days=config.retention_days)
        with connection.begin():
            # Last and by itself, since it alone may have to wait for writers, and wait in vain.
            made += admin.ensure_partitions(connection, now.date(), days_ahead=0)
        with connection.begin():
            made += admin.move_from_default_partition(connection, now.date())
        with connection.begin():
            PARTITIONS.set(len(admin.partitions(connection)))
    if made or changes.dropped or changes.kept_unrelayed:
        _log.info(
            "partitions", made=made, dropped=changes.dropped, unrelayed=changes.kept_unrelayed
        )
    return changes
