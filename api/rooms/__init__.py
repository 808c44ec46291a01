"""/v1/rooms and /v1/availability: the rooms, their calendars, and what is available.

Looking holds nothing: by the time a stay is reserved, it may be gone.
"""

from litestar import Router
from litestar.di import Provide

from api.rooms.deps import Dependencies
from api.rooms.read import calendar, list_rooms, look, read, search_all
from api.rooms.write import name_room, set_nights

__all__ = ["Dependencies", "room_routes"]


def room_routes(deps: Dependencies) -> Router:
    return Router(
        "/",
        route_handlers=[
            Router(
                "/rooms", route_handlers=[list_rooms, read, name_room, calendar, set_nights, look]
            ),
            Router("/availability", route_handlers=[search_all]),
        ],
        dependencies={"deps": Provide(lambda: deps, sync_to_thread=False)},
        tags=["rooms"],
    )
