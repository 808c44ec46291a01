"""/v1/reservations: asking for a room, looking, cancelling."""

from litestar import Router
from litestar.di import Provide

from api.reservations.desk import Desk, Streams
from api.reservations.events import follow
from api.reservations.list import list_some
from api.reservations.read import history, read
from api.reservations.write import cancel_one, reserve

__all__ = ["Desk", "Streams", "reservation_routes"]


def reservation_routes(desk: Desk) -> Router:
    return Router(
        "/reservations",
        route_handlers=[reserve, list_some, read, history, follow, cancel_one],
        # One dependency, because Litestar resolves several in a task each.
        dependencies={"desk": Provide(lambda: desk, sync_to_thread=False)},
        tags=["reservations"],
    )
