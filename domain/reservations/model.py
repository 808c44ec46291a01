"""What a reservation is, and how it may change.

    new ──► PENDING ──SUCCESS──► CONFIRMED
              │ │                    │
              │ └──FAILURE──► REJECTED │
           cancel                cancel
              └──────► CANCELLING ◄──┘ ──CANCEL──► CANCELLED

    state, result        SUCCESS     FAILURE        CANCEL
    PENDING              CONFIRMED   REJECTED       contradiction
    CANCELLING           stays       stays          CANCELLED
    CONFIRMED            no-op       contradiction  contradiction
    REJECTED, CANCELLED  no-op       no-op          no-op

Every change makes the next version; a terminal status never changes. Time decides nothing: the
request of a saga that waits too long is re-sent (`redrive`), which changes its version alone.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from domain.answers import Answer, RoomResult
from domain.stay import Stay

# The reason of a version that only re-sends the request.
REDRIVEN: Final = "REDRIVEN"
NO_REASON_GIVEN: Final = "NO_REASON_GIVEN"

# The actors that change a reservation: the rooms' answers, and innbox when it re-sends a request.
ROOMS: Final = "rooms"
INNBOX: Final = "innbox"


class Status(StrEnum):
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"

    @property
    def open(self) -> bool:
        """Whether an answer of the rooms is still awaited."""
        return self in {Status.PENDING, Status.CANCELLING}

    @property
    def final(self) -> bool:
        """Whether no other status can follow."""
        return self in {Status.REJECTED, Status.CANCELLED}


@dataclass(frozen=True, slots=True)
class NewReservation:
    """A valid request, not yet stored."""

    member_id: int
    room_id: int
    stay: Stay


@dataclass(frozen=True, slots=True)
class Reservation:
    id: int
    member_id: int
    room_id: int
    stay: Stay
    status: Status
    reason: str | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of a transition: its message, its actor and its trace.

    The message is the appended one (a request to the rooms) or, where an answer settled the
    reservation, the received one. `actor` is ROOMS, INNBOX or `by_member`; actor and trace may be
    unknown.
    """

    message_id: UUID
    actor: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One version of a reservation, and how it came about."""

    reservation_id: int
    version: int
    status: Status
    reason: str | None
    at: datetime
    cause: Cause


def after(reservation: Reservation, transition: Transition) -> Reservation:
    """Return the reservation as its transition left it; what else it has never changes."""
    return replace(
        reservation,
        status=transition.status,
        reason=transition.reason,
        version=transition.version,
        updated_at=transition.at,
    )


def by_member(member_id: int, *, staff: bool = False) -> str:
    """Name a person as the actor: a member, or a person of the staff who acts for a member."""
    return f"{'staff' if staff else 'member'}:{member_id}"


class NotReservableCode(StrEnum):
    CHECK_IN_PAST = "CHECK_IN_PAST"
    STAY_TOO_LONG = "STAY_TOO_LONG"
    TOO_FAR_AHEAD = "TOO_FAR_AHEAD"


@dataclass(frozen=True, slots=True)
class NotReservable:
    """The rules forbid this stay; `text` explains it to the member."""

    code: NotReservableCode
    text: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing to do: it is already done, or in progress."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class NotCancellable:
    """There is nothing to cancel: the rooms have rejected the reservation."""

    reservation: Reservation
    code: str = "NOT_CANCELLABLE"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An answer that contradicts an earlier one: nothing changes, an operator must decide."""

    reservation: Reservation
    result: RoomResult
    code: str = "CONTRADICTING_ANSWER"


def new(
    member_id: int, room_id: int, stay: Stay, *, today: date, nights_max: int, days_max: int
) -> NewReservation | NotReservable:
    """Check a request against the rules: a check-in from today to `days_max` days ahead."""
    if stay.check_in < today:
        code, text = NotReservableCode.CHECK_IN_PAST, f"check-in {stay.check_in} is in the past"
    elif stay.length > nights_max:
        code, text = NotReservableCode.STAY_TOO_LONG, f"a stay is at most {nights_max} nights"
    elif stay.check_in > today + timedelta(days=days_max):
        code, text = NotReservableCode.TOO_FAR_AHEAD, f"check-in is at most {days_max} days ahead"
    else:
        return NewReservation(member_id, room_id, stay)
    return NotReservable(code, text)


def settle(reservation: Reservation, result: RoomResult) -> Reservation | Unchanged | Contradiction:
    """Apply the rooms' answer; see the table in the module docstring."""
    match reservation.status, result.status:
        case Status.PENDING, Answer.SUCCESS:
            return _next(reservation, Status.CONFIRMED)
        case Status.PENDING, Answer.FAILURE:
            return _next(reservation, Status.REJECTED, result.message or NO_REASON_GIVEN)
        case Status.CANCELLING, Answer.CANCEL:
            return _next(reservation, Status.CANCELLED)
        case (Status.PENDING, Answer.CANCEL) | (Status.CONFIRMED, Answer.FAILURE | Answer.CANCEL):
            return Contradiction(reservation, result)

    return Unchanged(reservation)


def cancel(reservation: Reservation) -> Reservation | Unchanged | NotCancellable:
    """Begin to cancel; a repeated cancel changes nothing."""
    match reservation.status:
        case Status.PENDING | Status.CONFIRMED:
            return _next(reservation, Status.CANCELLING)
        case Status.CANCELLING | Status.CANCELLED:
            return Unchanged(reservation)
        case Status.REJECTED:
            return NotCancellable(reservation)


def redrive(reservation: Reservation) -> Reservation:
    """Re-send the request under a new message id: the rooms answer from the allocation."""
    assert reservation.status.open, f"reservation {reservation.id} awaits no answer"
    return _next(reservation, reservation.status, REDRIVEN)


def _next(reservation: Reservation, status: Status, reason: str | None = None) -> Reservation:
    return replace(reservation, status=status, reason=reason, version=reservation.version + 1)
