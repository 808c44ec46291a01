"""What callers say of reservations and nights, and what the API tells, as frozen values.

Fields that are not known here are ignored.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import TypedDict

import msgspec

_OPEN = frozenset({"PENDING", "CANCELLING"})


class Filters(TypedDict, total=False):
    """Which reservations; only staff may name a `member_id`. `limit` is the size of a page."""

    status: str
    room_id: int
    check_in_from: date
    check_in_to: date
    member_id: int
    limit: int


class NightsChange(TypedDict, total=False):
    """What nights are to be; what is not named stays as it is. A new night needs a capacity."""

    weekdays: Sequence[str]
    capacity: int
    closed: bool
    min_stay: int
    closed_to_arrival: bool
    closed_to_departure: bool
    name: str


class _Seen(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Reservation(_Seen, frozen=True, kw_only=True):
    """A reservation; `reason` and its code say why it was rejected."""

    id: int
    member_id: int
    room_id: int
    check_in: date = msgspec.field(name="checkInDate")
    check_out: date = msgspec.field(name="checkOutDate")
    status: str
    reason: str | None = None
    reason_code: str | None = None
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def open(self) -> bool:
        """Whether an answer of the rooms is still awaited."""
        return self.status in _OPEN


class Transition(_Seen, frozen=True, kw_only=True):
    """One line of a reservation's history: what it became, when, and by whom."""

    version: int
    status: str
    at: datetime
    by: str | None = None
    reason: str | None = None
    message_id: str | None = None
    trace_id: str | None = None

    @property
    def open(self) -> bool:
        return self.status in _OPEN


class Room(_Seen, frozen=True, kw_only=True):
    id: int
    name: str | None = None


class Night(_Seen, frozen=True, kw_only=True):
    """One night of a room: how many there are, how many are held, and the rules of staying."""

    night: date
    capacity: int
    taken: int
    free: int
    closed: bool = False
    min_stay: int = 1
    closed_to_arrival: bool = False
    closed_to_departure: bool = False


class Calendar(_Seen, frozen=True, kw_only=True):
    room_id: int
    name: str | None = None
    nights: tuple[Night, ...] = ()


class NightsSet(_Seen, frozen=True, kw_only=True):
    """How many nights were set."""

    room_id: int
    nights: int


class FailingNight(_Seen, frozen=True, kw_only=True):
    night: date
    reason: str


class Availability(_Seen, frozen=True, kw_only=True):
    """Whether a stay could be held now, and which nights are in the way."""

    bookable: bool
    minimum_free: int
    failing_nights: tuple[FailingNight, ...] = ()


class RoomAvailability(Availability, frozen=True, kw_only=True):
    room_id: int
    name: str | None = None
