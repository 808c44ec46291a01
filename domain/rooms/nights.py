"""Room nights: taking a room on every night of a stay, or on none.

0 <= taken <= capacity holds for every night that these functions return.

Why a stay cannot be held; where several reasons apply, the first in this order is given. SOLD_OUT is
last: a cancellation may end it, the others only a change of the calendar.

    UNKNOWN_ROOM         there is no such room
    NIGHT_NOT_OPEN       a night of the stay was never opened
    CLOSED               a night of the stay is closed, however many rooms are free
    CLOSED_TO_ARRIVAL    no stay may begin on the day of check-in
    CLOSED_TO_DEPARTURE  no stay may end on the day of check-out
    MIN_STAY             a stay that begins on the day of check-in must be longer
    SOLD_OUT             a night of the stay has no room left

Arrival and the shortest stay depend on the night of check-in alone. Departure depends on the day of
check-out, which is no night of the stay: it may be closed, sold out or never opened, and only
CLOSED_TO_DEPARTURE counts. Rules apply to new requests and never affect what is held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from domain.answers import ReasonCode
from domain.stay import Stay

# The nights named in a refusal; the others are counted, so that the text stays short.
NIGHTS_NAMED_MAX = 10

NightKey = tuple[int, date]
Failing = tuple[tuple[date, ReasonCode], ...]


@dataclass(frozen=True, slots=True)
class RoomNight:
    """One room type on one date; `on` is the date of the evening."""

    room_id: int
    on: date
    capacity: int
    taken: int
    closed: bool = False
    min_stay: int = 1
    closed_to_arrival: bool = False
    closed_to_departure: bool = False

    @property
    def key(self) -> NightKey:
        return self.room_id, self.on

    @property
    def free(self) -> int:
        return self.capacity - self.taken

    def taken_once_more(self) -> "RoomNight":
        assert self.free > 0, f"room {self.room_id} is full on {self.on}"
        return self._with(self.taken + 1)

    def given_back(self) -> "RoomNight":
        assert self.taken > 0, f"room {self.room_id} has nothing to give back on {self.on}"
        return self._with(self.taken - 1)

    def _with(self, taken: int) -> "RoomNight":
        # Positional, since `replace` takes three times as long, and consumers do this most.
        return RoomNight(
            self.room_id,
            self.on,
            self.capacity,
            taken,
            self.closed,
            self.min_stay,
            self.closed_to_arrival,
            self.closed_to_departure,
        )


@dataclass(frozen=True, slots=True)
class Held:
    nights: tuple[RoomNight, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    code: ReasonCode
    nights: tuple[date, ...] = ()
    # Of the night of check-in; given where MIN_STAY is the reason.
    min_stay: int = 1

    @property
    def message(self) -> str:
        named = _named(self.nights)
        texts = {
            ReasonCode.UNKNOWN_ROOM: "there is no such room",
            ReasonCode.NIGHT_NOT_OPEN: f"not open for reservation on {named}",
            ReasonCode.CLOSED: f"closed on {named}",
            ReasonCode.CLOSED_TO_ARRIVAL: f"no arrival on {named}",
            ReasonCode.CLOSED_TO_DEPARTURE: f"no departure on {named}",
            ReasonCode.MIN_STAY: f"{self.min_stay} nights or more from {named}",
            ReasonCode.SOLD_OUT: f"no room left on {named}",
        }
        return f"{self.code}: {texts[self.code]}"


def hold(nights: Sequence[RoomNight], stay: Stay) -> Held | Refused:
    """Take one room on every night of the stay, or none at all.

    `nights` are the existing ones of the stay and the day of check-out, in order. That day is read
    for its rule and never taken.
    """
    opened = {night.on: night for night in nights}
    if failing := _failing(opened, stay):
        code = min((reason for _, reason in failing), key=_RANK.__getitem__)
        named = tuple(night for night, reason in failing if reason is code)
        arrival = opened.get(stay.check_in)
        return Refused(code, named, arrival.min_stay if arrival else 1)

    return Held(tuple(opened[night].taken_once_more() for night in stay.nights))


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a stay could be held now, and if not, which nights prevent it and why.

    `minimum_free` counts rooms and ignores the rules: a stay may fail although rooms are free.
    """

    bookable: bool
    minimum_free: int
    failing: Failing


def availability(nights: Sequence[RoomNight], stay: Stay, *, known_room: bool) -> Availability:
    """Check a stay as `hold` would, without taking a room; each failing night has its first reason."""
    opened = {night.on: night for night in nights}
    free = min(opened[on].free if on in opened else 0 for on in stay.nights)
    if known_room:
        failing = _failing(opened, stay)
    else:
        failing = tuple((night, ReasonCode.UNKNOWN_ROOM) for night in stay.nights)
    return Availability(not failing, free, failing)


def _failing(opened: Mapping[date, RoomNight], stay: Stay) -> Failing:
    """Return the nights that prevent the stay, in order, each with its first reason."""
    found = [(on, reason) for on in stay.nights if (reason := _reason(opened.get(on), on, stay))]
    departure = opened.get(stay.check_out)
    if departure and departure.closed_to_departure:
        found.append((stay.check_out, ReasonCode.CLOSED_TO_DEPARTURE))
    return tuple(found)


def _reason(night: RoomNight | None, on: date, stay: Stay) -> ReasonCode | None:
    if night is None:
        return ReasonCode.NIGHT_NOT_OPEN
    if night.closed:
        return ReasonCode.CLOSED
    if on == stay.check_in:
        if night.closed_to_arrival:
            return ReasonCode.CLOSED_TO_ARRIVAL
        if night.min_stay > stay.length:
            return ReasonCode.MIN_STAY
    return ReasonCode.SOLD_OUT if night.free == 0 else None


_RANK = {reason: rank for rank, reason in enumerate(ReasonCode)}


def _named(nights: Sequence[date]) -> str:
    named = ", ".join(str(night) for night in nights[:NIGHTS_NAMED_MAX])
    more = len(nights) - NIGHTS_NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named
