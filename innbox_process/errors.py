"""Errors in one line, fit for a log and for a probe that anybody may ask."""

from sqlalchemy.exc import StatementError


def first_line(error: BaseException) -> str:
    """Say what went wrong and no more.

    SQLAlchemy's own text shows the statement and its parameters, and Postgres' further lines may quote
    a row: both are people's data.
    """
    cause = (error.orig if isinstance(error, StatementError) else None) or error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__
