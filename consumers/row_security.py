"""The results consumer must see every reservation, or it settles nothing.

Row-level security hides rows without an error. A result for a hidden reservation would become a dead
letter as if the reservation did not exist; so a connection that does not see all rows is not used.
"""

from typing import Any

import psycopg
from sqlalchemy import Engine, event

# In force for this login, and not lifted by the policy for the results role. CASE, because that role
# exists only where row-level security does.
HIDES_ROWS = """
    SELECT CASE WHEN row_security_active('reservations.reservation')
        THEN NOT pg_has_role('innbox_results', 'USAGE') ELSE false END, current_user
"""


class RowsHidden(psycopg.OperationalError):
    """Row-level security applies to this login; an operator can change that while the process waits."""

    def __init__(self, login: str) -> None:
        super().__init__(
            f"row-level security hides reservations from {login}: GRANT innbox_results TO {login}, or "
            "let the process take its role (DATABASE_ROLES)"
        )


def require_all_rows(engine: Engine) -> None:
    """Have the engine refuse connections that do not see every reservation."""

    @event.listens_for(engine, "connect")
    def check(connection: psycopg.Connection[Any], _: object) -> None:
        [(hides_rows, login)] = connection.execute(HIDES_ROWS).fetchall()
        connection.rollback()
        if hides_rows:
            connection.close()  # the pool does not know it yet
            raise RowsHidden(login)
