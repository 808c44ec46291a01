"""/v1/operations: what is open, for operators.

It reads the reservations' database only, at a cost that grows with what is open and never with the
history. Dead letters belong to the consumers; `innbox dead-letters list` shows them.
"""

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency, Provide
from sqlalchemy import Engine

from api.identity.auth import needs
from api.identity.row_security import ALL_MEMBERS, connection_of
from api.identity.scopes import OPERATE
from domain.reservations.reading import open_sagas
from outbox import admin, reader


class SagasView(msgspec.Struct, frozen=True):
    """Reservations that wait for the rooms' answer; the oldest one's age is in seconds."""

    pending: int
    cancelling: int
    oldest_age_s: float | None = msgspec.field(name="oldestAgeS")


class OutboxView(msgspec.Struct, frozen=True, rename="camel"):
    """Messages not yet published, counted among the newest 100,000, and keys that one holds up."""

    backlog: int
    blocked_keys: int


class OperationsView(msgspec.Struct, frozen=True):
    """What is open at this moment."""

    sagas: SagasView
    outbox: OutboxView


def operation_routes(engine: Engine) -> Router:
    return Router(
        "/operations",
        route_handlers=[look],
        dependencies={"engine": Provide(lambda: engine, sync_to_thread=False)},
        tags=["operations"],
    )


@get(
    "/",
    operation_id="getOperations",
    summary="Look at what is open",
    **needs(OPERATE),
    sync_to_thread=True,
)
def look(engine: NamedDependency[Engine]) -> OperationsView:
    """Needs the scope `operate`."""
    with connection_of(engine, ALL_MEMBERS) as connection:
        sagas = open_sagas(connection)
        backlog = admin.count_backlog(connection)
        blocked = reader.blocked_keys(connection)
    return OperationsView(
        SagasView(sagas.pending, sagas.cancelling, sagas.oldest_s),
        OutboxView(backlog, len(blocked)),
    )
