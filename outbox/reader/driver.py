"""The driver itself, behind SQLAlchemy: a relay's session, the hot path, and notifications.

By these a relay hears that there is something to do, without asking in a loop. One that is lost costs no
message, since a relay that waits also polls.
"""

from typing import Any

import msgspec
from psycopg.rows import TupleRow
from psycopg.types.string import ByteaBinaryLoader
from sqlalchemy import Connection, text

from outbox.doorbell import DOORBELL_CHANNEL

# Typed, it is twice as fast as a driver's loader that Python must call for each row.
decode_headers = msgspec.json.Decoder(dict[str, str]).decode

# A generic plan spares planning over all partitions for every batch; with it the planner knows none of
# the values, so sequential scans are ruled out by hand. No workers: they would mix the rows' order.
# A statement that walks far must not be cut short by a limit on ordinary statements, or it would never
# end; waiting for locks stays bounded. Cursors need no flush of their own: one that a crash of the
# server takes back lies behind what is published, never before it.
_SESSION = text("""
    SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
           set_config('enable_seqscan', 'off', false),
           set_config('max_parallel_workers_per_gather', '0', false),
           set_config('jit', 'off', false),
           set_config('statement_timeout', '0', false),
           set_config('synchronous_commit', 'off', false)
""")


def prepare_session(connection: Connection) -> None:
    """Set a connection up for `read` and `save`. It must be in autocommit, and direct (no pgbouncer)."""
    connection.execute(_SESSION)
    driver(connection).adapters.register_loader("json", ByteaBinaryLoader)


def driver(connection: Connection) -> Any:  # noqa: ANN401 - psycopg's, behind SQLAlchemy's untyped door
    """Return psycopg's own connection."""
    return connection.connection.driver_connection


def fetch(connection: Connection, statement: str, values: dict[str, Any]) -> list[TupleRow]:
    """Return all rows of a statement in psycopg's own writing, prepared and in binary.

    This is the hot path, and a row object for each message would cost more than reading it.
    """
    with driver(connection).cursor(binary=True) as cursor:
        rows: list[TupleRow] = cursor.execute(statement, values, prepare=True).fetchall()
    return rows


def listen(connection: Connection, channel: str = DOORBELL_CHANNEL) -> None:
    """Have a connection in autocommit listen to a channel; `wait_for_notify` then waits for it."""
    connection.execute(text(f"LISTEN {channel}"))


def wait_for_notify(connection: Connection, seconds: float) -> bool:
    """Wait at most so long; returns whether a notification came, now or since the last call."""
    return bool(list(driver(connection).notifies(timeout=seconds, stop_after=1)))
