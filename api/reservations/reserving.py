"""Asking for a room, as one transaction in one round trip: reservation, transition, message and key.

Only what is refused, or was done before, takes a second one, to learn which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar.concurrency import sync_to_thread
from sqlalchemy import Connection

import outbox
from api.identity.acting import saying
from api.identity.auth import STAFF, ScopeMissing
from api.identity.tokens import Member
from api.problems import Declined, Refused
from api.requests.idempotency import Attempt
from api.reservations.desk import Desk
from api.reservations.looking import acts_for, looking
from api.reservations.views import NewStay
from domain.idempotency import InFlight, Mismatch
from domain.messages import unnumbered_room_reserve
from domain.reservations import reserving
from domain.reservations.model import (
    Cause,
    NewReservation,
    NotReservable,
    Reservation,
    by_member,
    new,
)
from domain.reservations.reserving import Claim, Order, TooManyPending
from domain.stay import Stay
from runtime.ids import new_uuid
from runtime.roundtrip import Statement
from runtime.traces import trace_id

RESERVE: Final = reserving.reserve_and(
    outbox.append_within(value=reserving.VALUE, rows=reserving.ROWS)
)

# Until it is over everywhere, a day may be the hotel's today.
_BEHIND = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish, by whom and for whom, and the request that it came with."""

    caller: Member
    stay: NewStay
    attempt: Attempt
    traceparent: str

    @property
    def member_id(self) -> int:
        """For whom; raises `ScopeMissing` if that is not for the caller to say."""
        if (member_id := self.stay.member_id) in {None, self.caller.id}:
            return self.caller.id
        if not self.caller.is_staff:
            raise ScopeMissing(STAFF)
        assert member_id is not None, "None is the caller"
        return member_id

    @property
    def claim(self) -> Claim | None:
        attempt = self.attempt
        return Claim(attempt.member_id, attempt.key, attempt.fingerprint) if attempt.key else None


async def reserve_once(desk: Desk, asked: Asked) -> tuple[Reservation, bool]:
    """Return the reservation, and whether an earlier request with the same key had made it."""
    wish = _wish(asked, desk)
    outcome = wish if isinstance(wish, NotReservable) else await _reserved(desk, asked, wish)
    if isinstance(outcome, Reservation):
        return outcome, False
    # Judged after the key: what was accepted yesterday is not too late, or too much, today.
    return await sync_to_thread(_earlier, desk, asked, outcome), True


async def _reserved(
    desk: Desk, asked: Asked, wish: NewReservation
) -> Reservation | InFlight | TooManyPending:
    order = _order(asked, wish, desk)
    headers = {"traceparent": asked.traceparent}

    def statements(connection: Connection) -> Sequence[Statement]:
        message = outbox.binds_within(connection, order.request.envelope, headers=headers)
        return [
            saying(acts_for(asked.caller)),
            reserving.turn(order),
            (RESERVE, {**reserving.binds(order), **message}),
        ]

    *_, rows = await desk.lanes.send(statements)
    return reserving.reserved(order, rows)


def _earlier(
    desk: Desk, asked: Asked, refusal: NotReservable | InFlight | TooManyPending
) -> Reservation:
    """Return what an earlier request with the key made; raises the refusal if there was none."""
    with looking(desk.reading, asked.caller) as connection:
        found = reserving.earlier(connection, asked.claim) if asked.claim else None
    match found:
        case Reservation() as reservation:
            return reservation
        case Mismatch() as mismatch:
            raise Refused(mismatch)
    if isinstance(refusal, TooManyPending):
        most = refusal.pending_max
        raise Declined(
            refusal.code, f"{most} reservations wait for an answer; no more are taken meanwhile"
        )
    raise Refused(refusal)


def _wish(asked: Asked, desk: Desk) -> NewReservation | NotReservable:
    return new(
        asked.member_id,
        asked.stay.room_id,
        Stay(asked.stay.check_in_date, asked.stay.check_out_date),
        today=(datetime.now(UTC) - _BEHIND).date(),
        nights_max=desk.settings.nights_per_stay_max,
        days_max=desk.settings.days_in_advance_max,
    )


def _order(asked: Asked, wish: NewReservation, desk: Desk) -> Order:
    is_for_another = wish.member_id != asked.caller.id
    cause = Cause(
        new_uuid(),
        by_member(asked.caller.id, staff=is_for_another),
        trace_id(asked.traceparent),
    )
    return Order(
        wish,
        cause,
        unnumbered_room_reserve(wish.room_id, wish.stay, cause.message_id),
        asked.claim,
        desk.settings.pending_per_member_max,
    )
