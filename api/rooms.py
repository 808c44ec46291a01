"""/v1/rooms: opening nights, and looking at what is free.

Looking holds nothing: by the time a stay is asked for, it may be gone.
"""

from datetime import date
from typing import Annotated

import msgspec
from litestar import Router, get, put
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody, PathParameter, QueryParameter
from sqlalchemy import Engine

from api.auth import INVENTORY, needs
from api.bodies import ID_MAX, Nights, Strict
from api.problems import Refused, documented
from domain.answers import ReasonCode
from domain.rooms import calendar
from domain.rooms.calendar import BelowTaken
from domain.stay import Stay

RoomId = Annotated[int, PathParameter(ge=1, le=ID_MAX)]


class NightsView(msgspec.Struct, frozen=True, rename="camel"):
    """How many nights have the capacity now."""

    room_id: int
    nights: int


class FailingNight(msgspec.Struct, frozen=True):
    night: date
    reason: ReasonCode


class AvailabilityView(msgspec.Struct, frozen=True, rename="camel"):
    """Whether a stay could be held now, and which nights are in the way."""

    bookable: bool
    minimum_free: int
    failing_nights: list[FailingNight]


def room_routes(engine: Engine) -> Router:
    """Return the routes; the engine is that of the rooms' database."""
    return Router(
        "/rooms/{room_id:int}",
        route_handlers=[set_nights, look],
        dependencies={"engine": Provide(lambda: engine, sync_to_thread=False)},
        tags=["rooms"],
    )


@put(
    "/nights",
    operation_id="setNights",
    summary="Open nights, or change how many rooms they have",
    guards=[needs(INVENTORY)],
    responses=documented(403, 404, 409),
    dto=Strict[Nights],
    return_dto=None,
    sync_to_thread=True,
)
def set_nights(
    room_id: RoomId, data: JSONBody[Nights], engine: NamedDependency[Engine]
) -> NightsView:
    """All nights of [from, to) or none. Needs the scope `inventory`. Repeatable."""
    with engine.begin() as connection:
        outcome = calendar.set_nights(
            connection, room_id, data.from_, data.to, data.capacity, name=data.name
        )
        if isinstance(outcome, BelowTaken):
            raise Refused(outcome)
    return NightsView(room_id, outcome.count)


@get(
    "/availability",
    operation_id="getAvailability",
    summary="Look whether a stay could be held",
    responses=documented(404),
    sync_to_thread=True,
)
def look(
    room_id: RoomId,
    engine: NamedDependency[Engine],
    check_in: Annotated[date, QueryParameter(name="checkIn")],
    check_out: Annotated[date, QueryParameter(name="checkOut")],
) -> AvailabilityView:
    stay = Stay(check_in, check_out)
    with engine.connect() as connection:
        seen = calendar.availability(connection, room_id, stay)
    failing = [FailingNight(night, reason) for night, reason in seen.failing]
    return AvailabilityView(seen.bookable, seen.minimum_free, failing)
