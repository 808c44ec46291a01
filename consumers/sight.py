"""Results are for everybody's reservations: who is shown only some of them settles nothing.

Row-level security hides rows without an error. An answer to a reservation that is hidden would be set
aside as one that nobody has asked for; so a connection that is not shown all is not used.
"""

from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

# In force for this login, and not lifted by the policy for who settles. CASE, because the role is there
# just when row-level security is.
SEES_SOME_ONLY = """
    SELECT CASE WHEN row_security_active('reservations.reservation')
        THEN NOT pg_has_role('innbox_results', 'USAGE') ELSE false END, current_user
"""


class SeesSomeOnly(psycopg.OperationalError):
    """An operator can put that right while the process waits."""

    def __init__(self, login: str) -> None:
        super().__init__(
            f"row-level security hides reservations from {login}: GRANT innbox_results TO {login}, or "
            "let the process take its role (DATABASE_ROLES)"
        )


def must_see_all(engine: Engine) -> None:
    """Have the engine refuse connections that are not shown every reservation."""

    @event.listens_for(engine, "connect")
    def look(connection: "psycopg.Connection[Any]", _: "ConnectionPoolEntry") -> None:
        [(is_blind, login)] = connection.execute(SEES_SOME_ONLY).fetchall()
        connection.rollback()
        if is_blind:
            connection.close()  # nobody else knows of it
            raise SeesSomeOnly(login)
