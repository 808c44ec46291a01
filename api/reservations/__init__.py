"""/v1/reservations: reserve, look, follow, cancel."""

from litestar import Router
from litestar.di import Provide

from api.reservations.change import cancel_one, reserve
from api.reservations.deps import Dependencies, Streams
from api.reservations.events import follow
from api.reservations.read import history, list_some, read

__all__ = ["Dependencies", "Streams", "reservation_routes"]


def reservation_routes(deps: Dependencies) -> Router:
    return Router(
        "/reservations",
        route_handlers=[reserve, list_some, read, history, follow, cancel_one],
        # One dependency, because Litestar resolves several in a task each.
        dependencies={"deps": Provide(lambda: deps, sync_to_thread=False)},
        tags=["reservations"],
    )
