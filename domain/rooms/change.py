"""Changing the calendar: the change requested for a room's nights, and its outcome.

    a night     with a capacity              without one
    new         opened                       NIGHT_WITHOUT_CAPACITY
    existing    changed, or                  changed
                CAPACITY_BELOW_TAKEN

A change is made on all of its nights or on none. A value that it leaves out stays as it is; on a new
night it is the default, no rule. Values are absolute, so a change may be repeated. Rules never affect
what is held, so closing is never refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from domain.rooms.nights import NightKey, RoomNight
from domain.stay import InvalidDates, days_from, fault_of_range

NIGHTS_SET_MAX = 1_100
CAPACITY_MAX = 100_000
MIN_STAY_MAX = 365


class Weekday(StrEnum):
    """In the order of `date.weekday`."""

    MON = "MON"
    TUE = "TUE"
    WED = "WED"
    THU = "THU"
    FRI = "FRI"
    SAT = "SAT"
    SUN = "SUN"


class InvalidRange(InvalidDates):
    """The range has no nights, too many, or some outside the calendar."""

    code = "INVALID_RANGE"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of some nights of a room; None leaves a value as it is.

    The caller has checked the bounds: nights as `nights_of` returns them, a capacity up to
    CAPACITY_MAX, a shortest stay up to MIN_STAY_MAX.
    """

    room_id: int
    nights: tuple[date, ...]
    capacity: int | None = None
    closed: bool | None = None
    min_stay: int | None = None
    closed_to_arrival: bool | None = None
    closed_to_departure: bool | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class NightsSet:
    count: int


@dataclass(frozen=True, slots=True)
class BelowTaken:
    """More rooms are held on these nights than the requested capacity; nothing was changed."""

    nights: tuple[RoomNight, ...]
    code: str = "CAPACITY_BELOW_TAKEN"


@dataclass(frozen=True, slots=True)
class WithoutCapacity:
    """These nights are new and the change gives no capacity; nothing was changed."""

    nights: tuple[date, ...]
    code: str = "NIGHT_WITHOUT_CAPACITY"


Changed = NightsSet | BelowTaken | WithoutCapacity

_WEEKDAYS = tuple(Weekday)


def nights_of(
    from_on: date, until_on: date, weekdays: Sequence[Weekday] | None = None
) -> tuple[date, ...]:
    """Return the nights of [from, until) that fall on these weekdays; raises InvalidRange."""
    if fault := fault_of_range(from_on, until_on, NIGHTS_SET_MAX):
        raise InvalidRange(from_on, until_on, fault)

    nights = days_from(from_on, (until_on - from_on).days)
    if weekdays is not None:
        nights = tuple(night for night in nights if _WEEKDAYS[night.weekday()] in weekdays)
    if not nights:
        raise InvalidRange(from_on, until_on, "has none of these weekdays")
    return nights


def decide(
    nights: Mapping[NightKey, RoomNight], changes: Sequence[Change]
) -> tuple[dict[NightKey, RoomNight], list[Changed]]:
    """Apply changes in order, each seeing what those before it did.

    Returns the nights that are new or have changed, in their final shape, and an outcome for each
    change.
    """
    now = dict(nights)
    outcomes = [_apply(now, change) for change in changes]
    return {key: night for key, night in now.items() if nights.get(key) != night}, outcomes


def _apply(now: dict[NightKey, RoomNight], change: Change) -> Changed:
    """Make a change completely or not at all."""
    found = {on: now.get((change.room_id, on)) for on in change.nights}
    if (capacity := change.capacity) is None:
        if missing := tuple(on for on, night in found.items() if night is None):
            return WithoutCapacity(missing)
    elif below := tuple(night for night in found.values() if night and night.taken > capacity):
        return BelowTaken(below)

    for on, night in found.items():
        old = night or RoomNight(change.room_id, on, capacity=0, taken=0)
        now[old.key] = _changed(old, change)
    return NightsSet(len(change.nights))


def _changed(old: RoomNight, new: Change) -> RoomNight:
    # Positional, since `replace` takes three times as long and a bulk load does little else.
    return RoomNight(
        old.room_id,
        old.on,
        old.capacity if new.capacity is None else new.capacity,
        old.taken,
        old.closed if new.closed is None else new.closed,
        old.min_stay if new.min_stay is None else new.min_stay,
        old.closed_to_arrival if new.closed_to_arrival is None else new.closed_to_arrival,
        old.closed_to_departure if new.closed_to_departure is None else new.closed_to_departure,
    )
