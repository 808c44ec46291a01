"""Acting: for whom the API looks at reservations, and changes them.

Row-level security shows the API no reservation, no transition and no key of a reservation until it has
said whose; then that member's, or anybody's. So a condition that a query forgets shows too little, and
never somebody else's. What is said holds for one transaction: a pooled connection remembers nothing.

To say it costs no round trip: it travels with the transaction's BEGIN and its first statement, and in
autocommit, where each statement is a transaction, with each.
"""

from typing import Any, Final, Literal, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExecutionContext

from runtime.roundtrip import Statement

# For the staff, and for what the API does by itself after a route has asked whose it is.
ANYBODY: Final = "any"

_OPTION = "innbox_acting_for"
_SAY: Final = "SELECT set_config('innbox.member_id', CAST({} AS text), true)"
_SAYING: Final = text(_SAY.format(":member"))
_SAY_FIRST: Final = _SAY.format("%s")


def act_for(connection: Connection, member: int | Literal["any"]) -> None:
    """Let what follows see this member's rows, or with `any` everybody's.

    On a connection whose engine `take_acting` was called with, before the first statement or between two.
    """
    connection.execution_options(**{_OPTION: str(member)})
    driver = cast("psycopg.Connection", connection.connection.driver_connection)
    if driver.info.transaction_status == TransactionStatus.INTRANS:
        driver.execute(_SAY_FIRST, (str(member),))


def saying(member: int | Literal["any"]) -> Statement:
    """Return what `act_for` says, as the first statement of a transaction in one round trip."""
    return _SAYING, {"member": member}


def take_acting(engine: Engine) -> None:
    """Have the engine's transactions begin by saying for whom they are."""

    @event.listens_for(engine, "do_execute")
    def say_first(
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
            driver.execute(_SAY_FIRST, (member,))
            cursor.execute(statement, parameters)
        return True
