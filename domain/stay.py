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


class InvalidStay(ValueError):
    """The two dates do not form a stay."""

    code = "INVALID_STAY"

    def __init__(self, check_in: date, check_out: date, reason: str) -> None:
        super().__init__(f"[{check_in}, {check_out}) {reason}")
        self.check_in = check_in
        self.check_out = check_out
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Stay:
    check_in: date
    check_out: date

    def __post_init__(self) -> None:
        if fault := self._fault():
            raise InvalidStay(self.check_in, self.check_out, fault)

    @property
    def nights(self) -> tuple[date, ...]:
        return tuple(self.check_in + timedelta(days=day) for day in range(self.length))

    @property
    def length(self) -> int:
        """How many nights."""
        return (self.check_out - self.check_in).days

    def _fault(self) -> str | None:
        if self.length < 1:
            return "covers no night"
        if self.length > NIGHTS_MAX:
            return f"covers more than {NIGHTS_MAX} nights"
        if self.check_in < CALENDAR_BEGINS_ON or self.check_out > CALENDAR_ENDS_ON:
            return f"leaves the calendar [{CALENDAR_BEGINS_ON}, {CALENDAR_ENDS_ON})"
        return None
