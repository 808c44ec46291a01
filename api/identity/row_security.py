"""Row-level security: whose reservations a transaction of the API sees and changes.

Postgres shows the API no reservation, no transition and no key of a reservation until the transaction
has named a member; then that member's, or everybody's. So a condition that a query forgets shows too
little, and never another member's rows. The name holds for one transaction: a pooled connection remembers
nothing.

To set it costs no round trip: it travels with the transaction's BEGIN and its first statement, and in
autocommit, where each statement is a transaction, with each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExecutionContext

from runtime.pipeline import Statement

# For the staff, and for what the API does by itself after a route has asked whose it is.
ALL_MEMBERS: Final = "any"

_OPTION = "innbox_member"
_SETTING: Final = "set_config('innbox.member_id', CAST({} AS text), true)"
# What `set_member` runs, as an expression; its bind is that of `setting_binds`.
SETTING: Final = _SETTING.format(":member")
_SET_TEXT: Final = text(f"SELECT {SETTING}")
_SET_FIRST: Final = f"SELECT {_SETTING.format('%s')}"


def set_member(connection: Connection, member: int | Literal["any"]) -> None:
    """Let what follows see this member's rows, or with `any` everybody's.

    On a connection of an engine that `install_row_security` prepared, before its first statement or
    between two.
    """
    connection.execution_options(**{_OPTION: str(member)})
    driver = cast("psycopg.Connection", connection.connection.driver_connection)
    if driver.info.transaction_status == TransactionStatus.INTRANS:
        driver.execute(_SET_FIRST, (str(member),))


@contextmanager
def connection_of(engine: Engine, member: int | Literal["any"]) -> Iterator[Connection]:
    """Lend a connection that sees this member's rows, or with `any` everybody's."""
    with engine.connect() as connection:
        set_member(connection, member)
        yield connection


def set_member_statement(member: int | Literal["any"]) -> Statement:
    """Return what `set_member` runs, as the first statement of a transaction in one round trip."""
    return _SET_TEXT, setting_binds(member)


def setting_binds(member: int | Literal["any"]) -> dict[str, object]:
    """Return the bind of `SETTING`, which the first statement of a transaction in one round trip runs."""
    return {"member": member}


def install_row_security(engine: Engine) -> None:
    """Have each transaction of the engine begin by naming the member that `set_member` was given."""

    @event.listens_for(engine, "do_execute")
    def set_first(
        cursor: "psycopg.Cursor[Any]",
        statement: str,
        parameters: dict[str, Any],
        context: ExecutionContext,
    ) -> bool:
        member = context.execution_options.get(_OPTION)
        driver = cursor.connection
        if member is None or driver.info.transaction_status != TransactionStatus.IDLE:
            return False
        # Up to the pipeline's end all is one transaction, in autocommit, too.
        with driver.pipeline():
            driver.execute(_SET_FIRST, (member,))
            cursor.execute(statement, parameters)
        return True
