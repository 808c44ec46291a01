"""/v1/reservations: asking for a room, looking, cancelling."""

from litestar import Router
from litestar.di import Provide

from api.reservations.desk import Desk
from api.reservations.read import list_own, read
from api.reservations.write import cancel_own, reserve

__all__ = ["Desk", "reservation_routes"]


def reservation_routes(desk: Desk) -> Router:
    return Router(
        "/reservations",
        route_handlers=[reserve, list_own, read, cancel_own],
        # One dependency, because Litestar resolves several in a task each.
        dependencies={"desk": Provide(lambda: desk, sync_to_thread=False)},
        tags=["reservations"],
    )
