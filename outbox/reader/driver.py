"""The driver itself, behind SQLAlchemy: for what that has no door to, and for the hot path."""

from typing import Any

from psycopg.rows import TupleRow
from sqlalchemy import Connection


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
