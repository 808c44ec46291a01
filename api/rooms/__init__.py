"""/v1/rooms and /v1/availability: the rooms, their calendars, and what is available.

Any member may look, which holds nothing: by the time a stay is reserved, it may be gone. Changes need the
scope `inventory`. What is answered 2xx is committed, with its idempotency key. Values are absolute, so a
request may be repeated without one, too, as long as nobody else has changed the same in between.
"""

from dataclasses import dataclass
from datetime import date
from typing import Annotated

import msgspec
from litestar import Response, Router, get, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, JSONBody, QueryParameter
from sqlalchemy import Engine

from api.identity.auth import MemberRequest, needs
from api.identity.scopes import INVENTORY
from api.problems import OF_A_BODY, OF_A_CHANGE, Invalid, NotFound, problem_responses, refused
from api.requests.bodies import IdInPath, Strict
from api.requests.idempotency import REPEATED, Key, is_repeat, keyed_request
from api.requests.pages import Cursor, Limit, after, following, page_size
from api.rooms.views import (
    AvailabilityView,
    CalendarView,
    FoundPage,
    FoundView,
    NewName,
    Nights,
    NightsView,
    NightView,
    RoomPage,
    RoomView,
)
from domain.idempotency import ROOM_KEYS
from domain.rooms import directory
from domain.rooms.calendar import availability, change_nights, opened_nights
from domain.rooms.change import NIGHTS_SET_MAX, NightsSet, nights_of
from domain.rooms.search import search
from domain.stay import Stay

CheckIn = Annotated[date, QueryParameter(name="checkIn")]
CheckOut = Annotated[date, QueryParameter(name="checkOut")]

_WRITTEN = ("NOT_FOUND", *OF_A_BODY, *OF_A_CHANGE)
_NIGHTS = ("CAPACITY_BELOW_TAKEN", "NIGHT_WITHOUT_CAPACITY", "INVALID_RANGE")


@dataclass(frozen=True, slots=True)
class Dependencies:
    engine: Engine
    reading: Engine
    page_size_max: int


def room_routes(deps: Dependencies) -> Router:
    rooms = [list_rooms, read, name_room, calendar, set_nights, look]
    return Router(
        "/",
        route_handlers=[
            Router("/rooms", route_handlers=rooms),
            Router("/availability", route_handlers=[search_all]),
        ],
        dependencies={"deps": Provide(lambda: deps, sync_to_thread=False)},
        tags=["rooms"],
    )


@get(
    "/",
    operation_id="listRooms",
    summary="List the rooms",
    responses=problem_responses(),
    sync_to_thread=True,
)
def list_rooms(
    deps: NamedDependency[Dependencies], limit: Limit = None, cursor: Cursor = None
) -> RoomPage:
    size, last_id = page_size(limit, deps.page_size_max), after(cursor, "rooms") or 0
    with deps.reading.connect() as connection:
        found = directory.list_rooms(connection, after=last_id, limit=size + 1)
    items = [RoomView.of(one) for one in found[:size]]
    return RoomPage(items, following([one.id for one in found], size, "rooms"))


@get(
    "/{room_id:int}",
    operation_id="getRoom",
    summary="Look at a room",
    responses=problem_responses("NOT_FOUND"),
    sync_to_thread=True,
)
def read(room_id: IdInPath, deps: NamedDependency[Dependencies]) -> RoomView:
    with deps.reading.connect() as connection:
        found = directory.get(connection, room_id)
    if found is None:
        raise NotFound
    return RoomView.of(found)


@get(
    "/{room_id:int}/calendar",
    operation_id="getCalendar",
    summary="Look at the nights of a room",
    responses=problem_responses("NOT_FOUND"),
    sync_to_thread=True,
)
def calendar(
    room_id: IdInPath,
    deps: NamedDependency[Dependencies],
    from_: Annotated[date, QueryParameter(name="from")],
    to: FromQuery[date],
) -> CalendarView:
    """Give the nights of [from, to) that were ever opened, in order."""
    if not 0 < (to - from_).days <= NIGHTS_SET_MAX:
        raise Invalid(f"it is from 1 to {NIGHTS_SET_MAX} nights after `from`", parameter="to")
    with deps.reading.connect() as connection:
        found = directory.get(connection, room_id)
        opened = opened_nights(connection, room_id, from_, to)
    if found is None:
        raise NotFound
    return CalendarView(found.id, found.name, [NightView.of(night) for night in opened])


@get(
    "/{room_id:int}/availability",
    operation_id="getAvailability",
    summary="Look whether a stay could be held",
    responses=problem_responses("NOT_FOUND", "INVALID_STAY"),
    sync_to_thread=True,
)
def look(
    room_id: IdInPath, deps: NamedDependency[Dependencies], check_in: CheckIn, check_out: CheckOut
) -> AvailabilityView:
    """A room that nobody built fails with UNKNOWN_ROOM; only an id that none can have is not found."""
    stay = Stay(check_in, check_out)
    with deps.reading.connect() as connection:
        return AvailabilityView.of(availability(connection, room_id, stay))


@get(
    "/",
    operation_id="searchRooms",
    summary="Look in which rooms a stay could be held",
    responses=problem_responses("INVALID_STAY"),
    sync_to_thread=True,
)
def search_all(
    deps: NamedDependency[Dependencies],
    check_in: CheckIn,
    check_out: CheckOut,
    bookable: Annotated[
        bool | None,
        QueryParameter(
            description="only the rooms that are, or are not, bookable; the default is all"
        ),
    ] = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> FoundPage:
    """Answer as each room's own availability does."""
    stay = Stay(check_in, check_out)
    size = page_size(limit, deps.page_size_max)
    asked = ("found", stay, bookable)
    last_id = after(cursor, *asked) or 0
    with deps.reading.connect() as connection:
        found = search(connection, stay, after=last_id, limit=size + 1, bookable=bookable)
    items = [FoundView.of(one) for one in found[:size]]
    return FoundPage(items, following([one.room_id for one in found], size, *asked))


@put(
    "/{room_id:int}",
    operation_id="nameRoom",
    summary="Name a room, or make it",
    **needs(INVENTORY, *_WRITTEN),
    dto=Strict[NewName],
    return_dto=None,
    sync_to_thread=True,
)
def name_room(
    room_id: IdInPath,
    data: JSONBody[NewName],
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    idempotency_key: Key = None,
) -> Response[RoomView]:
    asked = b"room %d " % room_id + msgspec.json.encode(data)
    keyed = keyed_request(request.user.id, idempotency_key, asked)
    with deps.engine.begin() as connection:
        if is_repeat(connection, ROOM_KEYS, keyed):
            return Response(RoomView(room_id, data.name), headers=REPEATED)
        return Response(RoomView.of(directory.name_room(connection, room_id, data.name)))


@put(
    "/{room_id:int}/nights",
    operation_id="setNights",
    summary="Open nights, or change how many rooms they have and which rules",
    **needs(INVENTORY, *_WRITTEN, *_NIGHTS),
    dto=Strict[Nights],
    return_dto=None,
    sync_to_thread=True,
)
def set_nights(
    room_id: IdInPath,
    data: JSONBody[Nights],
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    idempotency_key: Key = None,
) -> Response[NightsView]:
    """All of the nights or none. Makes the room if it is new."""
    change = data.change(room_id, nights_of(data.from_, data.to, data.weekdays))
    asked = b"nights %d " % room_id + msgspec.json.encode(data)
    keyed = keyed_request(request.user.id, idempotency_key, asked)
    with deps.engine.begin() as connection:
        if is_repeat(connection, ROOM_KEYS, keyed):
            return Response(NightsView(room_id, len(change.nights)), headers=REPEATED)
        [outcome] = change_nights(connection, [change])
        if not isinstance(outcome, NightsSet):
            raise refused(outcome)
        return Response(NightsView(room_id, outcome.count))
