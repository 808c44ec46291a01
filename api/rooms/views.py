"""Rooms, their nights and what is available, as they are shown."""

from datetime import date
from typing import Annotated

import msgspec

from api.requests.bodies import Body, Capacity, Name
from api.requests.pages import following
from domain.answers import ReasonCode
from domain.rooms.change import MIN_STAY_MAX, Change, Weekday
from domain.rooms.directory import Room
from domain.rooms.nights import Availability, RoomNight
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
        return Change(
            room_id,
            nights,
            capacity=self.capacity,
            closed=self.closed,
            min_stay=self.min_stay,
            closed_to_arrival=self.closed_to_arrival,
            closed_to_departure=self.closed_to_departure,
            name=self.name,
        )


class Nights(NightSettings, frozen=True, kw_only=True):
    """What is to be true of the nights of [from, to) that fall on these weekdays.

    What is not named keeps its value; a new night needs a capacity. A name renames the room.
    """

    from_: date = msgspec.field(name="from")
    to: date
    weekdays: Weekdays | None = None


class NightsView(msgspec.Struct, frozen=True, rename="camel"):
    """How many nights are now as they were asked to be."""

    room_id: int
    nights: int


class RoomView(msgspec.Struct, frozen=True):
    id: int
    name: str | None

    @classmethod
    def of(cls, one: Room) -> "RoomView":
        return cls(one.id, one.name)


class RoomPage(msgspec.Struct, frozen=True):
    """In the order of their ids; `next` is the cursor of the next page, if there is one."""

    items: list[RoomView]
    next: str | None

    @classmethod
    def of(cls, found: list[Room], limit: int) -> "RoomPage":
        """Make a page of at most `limit`; one more that was found says that there is a next."""
        items = [RoomView.of(one) for one in found[:limit]]
        return cls(items, following([one.id for one in found], limit, "rooms"))


class NightView(msgspec.Struct, frozen=True, rename="camel"):
    night: date
    capacity: int
    taken: int
    free: int
    closed: bool
    min_stay: int
    closed_to_arrival: bool
    closed_to_departure: bool

    @classmethod
    def of(cls, one: RoomNight) -> "NightView":
        return cls(
            one.on,
            one.capacity,
            one.taken,
            one.free,
            one.closed,
            one.min_stay,
            one.closed_to_arrival,
            one.closed_to_departure,
        )


class CalendarView(msgspec.Struct, frozen=True, rename="camel"):
    """The nights that were ever opened, in order."""

    room_id: int
    name: str | None
    nights: list[NightView]


class FailingNight(msgspec.Struct, frozen=True):
    """A night in the way, or the day of check-out, and the first reason why."""

    night: date
    reason: ReasonCode


class AvailabilityView(msgspec.Struct, frozen=True, rename="camel"):
    """Whether a stay could be held now, and which nights are in the way.

    `minimumFree` is the lowest number of free rooms of its nights, whatever the rules say.
    """

    bookable: bool
    minimum_free: int
    failing_nights: list[FailingNight]

    @classmethod
    def of(cls, seen: Availability) -> "AvailabilityView":
        return cls(seen.bookable, seen.minimum_free, _failing(seen))


class FoundView(msgspec.Struct, frozen=True, rename="camel"):
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


class FoundPage(msgspec.Struct, frozen=True):
    """In the order of their ids; `next` is the cursor of the next page, if there is one."""

    items: list[FoundView]
    next: str | None

    @classmethod
    def of(cls, found: list[Found], limit: int, *asked: object) -> "FoundPage":
        """Make a page of at most `limit`; one more that was found says that there is a next.

        The cursor is good for what was asked alone.
        """
        items = [FoundView.of(one) for one in found[:limit]]
        return cls(items, following([one.room_id for one in found], limit, *asked))


def _failing(seen: Availability) -> list[FailingNight]:
    return [FailingNight(night, reason) for night, reason in seen.failing]
