"""Looking at rooms: any member may."""

from datetime import date
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from api.problems import Invalid, NotFound, problem_responses
from api.requests.bodies import IdInPath
from api.requests.pages import Cursor, Limit, after, following, page_size
from api.rooms.deps import Dependencies
from api.rooms.views import (
    AvailabilityView,
    CalendarView,
    FoundPage,
    FoundView,
    NightView,
    RoomPage,
    RoomView,
)
from domain.rooms import calendar as nights
from domain.rooms import directory
from domain.rooms.change import NIGHTS_SET_MAX
from domain.rooms.search import search
from domain.stay import Stay

CheckIn = Annotated[date, QueryParameter(name="checkIn")]
CheckOut = Annotated[date, QueryParameter(name="checkOut")]


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
        raise Invalid("to", f"it is from 1 to {NIGHTS_SET_MAX} nights after `from`")
    with deps.reading.connect() as connection:
        found = directory.get(connection, room_id)
        opened = nights.opened_nights(connection, room_id, from_, to)
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
        return AvailabilityView.of(nights.availability(connection, room_id, stay))


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
