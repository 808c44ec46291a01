"""Rooms, their nights and what is available, as they are shown."""

from datetime import date
from typing import Annotated

import msgspec

from api.requests.bodies import Body, Capacity, Name, View
from domain.answers import ReasonCode
from domain.rooms.change import MIN_STAY_MAX, Change, Weekday
from domain.rooms.nights import Availability
from domain.rooms.search import Found

MinStay = Annotated[int, msgspec.Meta(ge=1, le=MIN_STAY_MAX)]
Weekdays = Annotated[list[Weekday], msgspec.Meta(min_length=1, max_length=7)]


class NewName(Body, frozen=True):
    """The name of a room, which is made if there is none of this id."""

    name: Name


class NightSettings(Body, frozen=True, kw_only=True):
    """What is to be true of some nights of a room.

    What is not named keeps its value; a new night needs a capacity. A name renames the room.
    """

    capacity: Capacity | None = None
    closed: bool | None = None
    min_stay: MinStay | None = None
    closed_to_arrival: bool | None = None
    closed_to_departure: bool | None = None
    name: Name | None = None

    def change(self, room_id: int, nights: tuple[date, ...]) -> Change:
        settings = {name: getattr(self, name) for name in NightSettings.__struct_fields__}
        return Change(room_id, nights, **settings)


class Nights(NightSettings, frozen=True, kw_only=True):
    """What is to be true of the nights of [from, to) that fall on these weekdays.

    What is not named keeps its value; a new night needs a capacity. A name renames the room.
    """

    from_: date = msgspec.field(name="from")
    to: date
    weekdays: Weekdays | None = None


class NightsView(View, frozen=True):
    """How many nights are now as they were asked to be."""

    room_id: int
    nights: int


class RoomView(View, frozen=True):
    id: int
    name: str | None


class RoomPage(View, frozen=True):
    """In the order of their ids; `next` is the cursor of the next page, if there is one."""

    items: list[RoomView]
    next: str | None


class NightView(View, frozen=True):
    on: date = msgspec.field(name="night")
    capacity: int
    taken: int
    free: int
    closed: bool
    min_stay: int
    closed_to_arrival: bool
    closed_to_departure: bool


class CalendarView(View, frozen=True):
    """The nights that were ever opened, in order."""

    room_id: int
    name: str | None
    nights: list[NightView]


class FailingNight(View, frozen=True):
    """A night in the way, or the day of check-out, and the first reason why."""

    night: date
    reason: ReasonCode


class AvailabilityView(View, frozen=True):
    """Whether a stay could be held now, and which nights are in the way.

    `minimumFree` is the lowest number of free rooms of its nights, whatever the rules say.
    """

    bookable: bool
    minimum_free: int
    failing_nights: list[FailingNight]

    @classmethod
    def of(cls, one: Availability) -> "AvailabilityView":
        return cls(one.bookable, one.minimum_free, _failing(one))


class FoundView(View, frozen=True):
    """A room, and whether the stay could be held in it now."""

    room_id: int
    name: str | None
    bookable: bool
    minimum_free: int
    failing_nights: list[FailingNight]

    @classmethod
    def of(cls, one: Found) -> "FoundView":
        seen = one.seen
        return cls(one.room_id, one.name, seen.bookable, seen.minimum_free, _failing(seen))


class FoundPage(View, frozen=True):
    """In the order of their ids; `next` is the cursor of the next page, if there is one."""

    items: list[FoundView]
    next: str | None


def _failing(seen: Availability) -> list[FailingNight]:
    return [FailingNight(night, reason) for night, reason in seen.failing]
