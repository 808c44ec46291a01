"""Which published messages their consumers passed over, for an audit, which knows no domain."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from innbox_process.commands import Report
from ops.verify.consumption import UNCONSUMED
from ops.verify.reading import read_all
from ops.verify.snapshot import SCHEMA
from relay.audit.snapshot import SnapshotDatabase
from runtime.settings import Settings

_OF_THE_WINDOW = f"""
    SELECT message_id, topic, key, partition, offset, reservation_id, instead AS found
    FROM ({UNCONSUMED})
    WHERE coalesce(ce_time, 0) >= :since AND coalesce(ce_time, 0) < :until
    ORDER BY topic, partition, offset
"""


def find_unconsumed(
    settings: Settings,
    report: Report,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    topics: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return the records, written in the window, that a consumer group is past without their effect.

    Raises what Postgres or Kafka raise when they cannot be read, and TimeoutError.
    """
    bounds = {
        "since": since.timestamp() if since else float("-inf"),
        "until": until.timestamp() if until else float("inf"),
    }
    with SnapshotDatabase(SCHEMA) as db:
        read_all(db, settings, report)
        found = list(db.dict_rows(_OF_THE_WINDOW, bounds))
    return [record for record in found if not topics or record["topic"] in topics]
