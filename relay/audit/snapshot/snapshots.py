"""Reading an outbox while it is in use: as of one instant, in streams, and later what has come since."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, text

from innbox_process.commands import Report
from innbox_process.config import DatabaseSettings
from innbox_process.database import direct_engine
from outbox import admin
from relay.audit.snapshot import ROWS_PER_INSERT

# Committed after the snapshot, found as the relay finds it.
COMMITTED_SINCE = """(xid >= pg_snapshot_xmax(CAST(:snapshot AS pg_snapshot))
    OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(CAST(:snapshot AS pg_snapshot)))))"""

FIRST_POSITION = text("SELECT min(position) FROM outbox.message")
SNAPSHOT = text("SELECT pg_current_snapshot()::text")
# A whole table takes longer than any request may.
NO_TIMEOUT = text("SET LOCAL statement_timeout = 0")


@contextmanager
def as_of_now(settings: DatabaseSettings, url: str, name: str) -> Iterator[Connection]:
    """A transaction in which every statement sees the one instant."""
    engine = direct_engine(settings, url, name)
    # REPEATABLE READ: all statements of the transaction see the one snapshot.
    connection = engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    )
    with connection, connection.begin():
        connection.execute(NO_TIMEOUT)
        yield connection


def snapshot(connection: Connection) -> str:
    """Return what the transaction sees, for `COMMITTED_SINCE`."""
    return str(connection.execute(SNAPSHOT).scalar_one())


def complete_from(connection: Connection) -> float:
    """When the last unbroken row of days begins; 0 if the very first message is still there.

    Retention may keep a day, for what is not yet relayed, and drop later ones.
    """
    days = sorted(admin.partitions(connection), reverse=True)
    if not days:
        return 0.0

    breaks = (day for day, before in pairwise(days) if day - before > timedelta(days=1))
    begins_on = next(breaks, days[-1])
    first_position = connection.execute(FIRST_POSITION).scalar_one()
    if begins_on == days[-1] and first_position == 1:
        return 0.0
    return datetime.combine(begins_on, time(), UTC).timestamp()


def stream(
    connection: Connection, query: str, values: Mapping[str, object] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Rows from a cursor on the server, so that a table need not fit in memory."""
    streamed = {"stream_results": True, "max_row_buffer": ROWS_PER_INSERT}
    with connection.execute(text(query), values or {}, execution_options=streamed) as rows:
        # The size is said out loud: by themselves, partitions fetch all that is left in one piece.
        for part in rows.partitions(ROWS_PER_INSERT):
            yield from map(tuple, part)


def reported(
    what: str, rows: Iterable[tuple[Any, ...]], report: Report
) -> Iterator[tuple[Any, ...]]:
    """Pass rows on and tell, now and then, how many there were."""
    count = 0
    for count, row in enumerate(rows, start=1):
        if count % ROWS_PER_INSERT == 0:
            report(what, count, None)
        yield row
    report(what, count, count)
