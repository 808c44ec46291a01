"""A stay: the nights of the half-open range [check-in, check-out).

A Stay that exists covers at least one night and at most NIGHTS_MAX, all within the calendar, so
a loop over its nights is bounded. The longest stay that a member may reserve is a rule of the
reservations; these are the bounds of a message.
"""

from dataclasses import dataclass
from datetime import date, timedelta

NIGHTS_MAX = 365
CALENDAR_BEGINS_ON = date(2000, 1, 1)
CALENDAR_ENDS_ON = date(2200, 1, 1)


class InvalidDates(ValueError):
    """The half-open range of two dates is not what is needed."""

    def __init__(self, from_on: date, until_on: date, reason: str) -> None:
        super().__init__(f"[{from_on}, {until_on}) {reason}")
        self.reason = reason


class InvalidStay(InvalidDates):
    """The two dates do not form a stay."""

    code = "INVALID_STAY"


@dataclass(frozen=True, slots=True)
class Stay:
    check_in: date
    check_out: date

    def __post_init__(self) -> None:
        if fault := fault_of_range(self.check_in, self.check_out, NIGHTS_MAX):
            raise InvalidStay(self.check_in, self.check_out, fault)

    @property
    def nights(self) -> tuple[date, ...]:
        return days_from(self.check_in, self.length)

    @property
    def length(self) -> int:
        """How many nights."""
        return (self.check_out - self.check_in).days


def fault_of_range(from_on: date, until_on: date, nights_max: int) -> str | None:
    """Say what is wrong with [from, until); None if it has nights, not too many, in the calendar."""
    length = (until_on - from_on).days
    if length < 1:
        return "covers no night"
    if length > nights_max:
        return f"covers more than {nights_max} nights"
    if from_on < CALENDAR_BEGINS_ON or until_on > CALENDAR_ENDS_ON:
        return f"leaves the calendar [{CALENDAR_BEGINS_ON}, {CALENDAR_ENDS_ON})"
    return None


def days_from(first_on: date, count: int) -> tuple[date, ...]:
    return tuple(first_on + timedelta(days=day) for day in range(count))
