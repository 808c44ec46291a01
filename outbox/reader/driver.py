"""The driver itself, behind SQLAlchemy: for the hot path, and for notifications.

By these a relay hears that there is something to do, without asking in a loop. One that is lost costs no
message, since a relay that waits also polls.
"""

from typing import Any

from psycopg.rows import TupleRow
from sqlalchemy import Connection, text

from outbox.doorbell import DOORBELL_CHANNEL


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
