"""Room nights: taking a room on every night of a stay, or on none.

0 <= taken <= capacity holds for every night that these functions return.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from domain.answers import ReasonCode
from domain.stay import Stay

# Nights named in a refusal; the rest are counted, so that its text stays short.
NIGHTS_NAMED_MAX = 10

NightKey = tuple[int, date]


@dataclass(frozen=True, slots=True)
class RoomNight:
    """One kind of room on one date; `on` is the evening it is slept in."""

    room_id: int
    on: date
    capacity: int
    taken: int

    @property
    def key(self) -> NightKey:
        return self.room_id, self.on

    @property
    def free(self) -> int:
        return self.capacity - self.taken

    def taken_once_more(self) -> "RoomNight":
        assert self.free > 0, f"room {self.room_id} is full on {self.on}"
        return replace(self, taken=self.taken + 1)

    def given_back(self) -> "RoomNight":
        assert self.taken > 0, f"room {self.room_id} has nothing to give back on {self.on}"
        return replace(self, taken=self.taken - 1)


@dataclass(frozen=True, slots=True)
class Held:
    nights: tuple[RoomNight, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    code: ReasonCode
    nights: tuple[date, ...] = ()

    @property
    def message(self) -> str:
        return f"{self.code}: {self._text}"

    @property
    def _text(self) -> str:
        match self.code:
            case ReasonCode.SOLD_OUT:
                return f"no room left on {_named(self.nights)}"
            case ReasonCode.NIGHT_NOT_OPEN:
                return f"not open for reservation on {_named(self.nights)}"
            case ReasonCode.UNKNOWN_ROOM:
                return "there is no such room"


def hold(nights: Sequence[RoomNight], stay: Stay) -> Held | Refused:
    """Take one room on every night of the stay, or none at all."""
    opened = {night.on for night in nights}
    if closed := tuple(night for night in stay.nights if night not in opened):
        return Refused(ReasonCode.NIGHT_NOT_OPEN, closed)
    if full := tuple(night.on for night in nights if night.free == 0):
        return Refused(ReasonCode.SOLD_OUT, full)

    return Held(tuple(night.taken_once_more() for night in nights))


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a stay could be held now, and if not, which nights are in the way and why."""

    bookable: bool
    minimum_free: int
    failing: tuple[tuple[date, ReasonCode], ...]


def availability(nights: Sequence[RoomNight], stay: Stay, *, known_room: bool) -> Availability:
    """Look at a stay as `hold` would, without taking anything."""
    free = {night.on: night.free for night in nights}
    missing = ReasonCode.NIGHT_NOT_OPEN if known_room else ReasonCode.UNKNOWN_ROOM
    failing = tuple(
        (night, ReasonCode.SOLD_OUT if night in free else missing)
        for night in stay.nights
        if free.get(night, 0) == 0
    )
    return Availability(not failing, min(free.get(night, 0) for night in stay.nights), failing)


def _named(nights: Sequence[date]) -> str:
    named = ", ".join(str(night) for night in nights[:NIGHTS_NAMED_MAX])
    more = len(nights) - NIGHTS_NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named
