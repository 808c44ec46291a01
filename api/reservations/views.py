"""Reservations as members ask for them and see them, and how they came about."""

import re
from datetime import date, datetime
from uuid import UUID

from api.requests.bodies import Body, Id, View
from domain.reservations.model import Reservation, Status, Transition

_CODE = re.compile(r"([A-Z][A-Z0-9_]*)(?::|$)")


class NewStay(Body, frozen=True, omit_defaults=True):
    """The nights of [checkInDate, checkOutDate) in one room; the staff may ask for a member."""

    room_id: Id
    check_in_date: date
    check_out_date: date
    member_id: Id | None = None


class ReservationView(View, frozen=True):
    """A reservation; `reason` and, for programs, `reasonCode` say why it was rejected."""

    id: int
    member_id: int
    room_id: int
    check_in_date: date
    check_out_date: date
    status: Status
    reason: str | None
    reason_code: str | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, one: Reservation) -> "ReservationView":
        # Other reasons are internal notes on how the saga goes.
        reason = one.reason if one.status is Status.REJECTED else None
        return cls(
            one.id,
            one.member_id,
            one.room_id,
            one.stay.check_in,
            one.stay.check_out,
            one.status,
            reason,
            _code(reason),
            one.version,
            one.created_at,
            one.updated_at,
        )


class ReservationPage(View, frozen=True):
    """Newest first; `next` is the cursor of the next page, if there is one."""

    items: list[ReservationView]
    next: str | None


class TransitionView(View, frozen=True):
    """What a version brought: when, by whom, why, with which message and in which trace.

    `by` is `member:` or `staff:` with an id, `rooms` for their answer, or `innbox` where it asked again.
    """

    version: int
    status: Status
    at: datetime
    by: str | None
    reason: str | None
    message_id: UUID
    trace_id: str | None

    @classmethod
    def of(cls, one: Transition) -> "TransitionView":
        by, message_id, trace_id = one.cause.actor, one.cause.message_id, one.cause.trace_id
        return cls(one.version, one.status, one.at, by, one.reason, message_id, trace_id)


class HistoryView(View, frozen=True):
    """Oldest first."""

    items: list[TransitionView]


def _code(reason: str | None) -> str | None:
    """Read `SOLD_OUT` out of `SOLD_OUT: no room left`; other room services may give no code."""
    found = _CODE.match(reason or "")
    return found[1] if found else None
