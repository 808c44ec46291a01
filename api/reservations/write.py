"""Asking for a room, and cancelling.

What is answered 2xx is committed: the reservation, its transition, the message to the rooms and the
idempotency key are one transaction. 202 says that the rooms have still to answer, 200 that the saga
has ended. A member cancels their own reservations only; others are not there for them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
from litestar import Response, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from sqlalchemy import Connection

import outbox
from api import idempotency
from api.auth import MemberRequest
from api.bodies import NewStay, Strict
from api.idempotency import Attempt, Key
from api.observe import traceparent
from api.problems import Missing, Refused, documented
from api.reservations.desk import Desk, ReservationId
from api.reservations.views import ReservationView
from api.waiting import Prefer, wait_s
from domain import messages
from domain.reservations import store
from domain.reservations.model import (
    NewReservation,
    NotCancellable,
    NotReservable,
    Reservation,
    Unchanged,
    cancel,
    new,
)
from domain.stay import Stay

ENDED = ResponseSpec(ReservationView, generate_examples=False, description="The saga has ended")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was committed, now or by an earlier request with the same key."""

    view: ReservationView
    replayed: bool = False


@post(
    "/",
    operation_id="reserve",
    summary="Ask for a room",
    status_code=202,
    responses={200: ENDED, **documented(409)},
    dto=Strict[NewStay],
    return_dto=None,
)
async def reserve(
    data: JSONBody[NewStay],
    request: MemberRequest,
    desk: NamedDependency[Desk],
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> Response[ReservationView]:
    """Accept the request; the rooms decide later. See Location, or wait with `Prefer: wait=N`."""
    attempt = Attempt(request.user.id, idempotency_key, b"reserve " + msgspec.json.encode(data))
    accepted = await sync_to_thread(_reserve, desk, attempt, data, traceparent(request.scope))
    return await _answer(desk, accepted, prefer)


@post(
    "/{reservation_id:int}/cancellation",
    operation_id="cancelReservation",
    summary="Cancel one's own",
    status_code=202,
    responses={200: ENDED, **documented(404, 409)},
)
async def cancel_own(
    reservation_id: ReservationId,
    request: MemberRequest,
    desk: NamedDependency[Desk],
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> Response[ReservationView]:
    """Begin to cancel; the rooms give the nights back later. Asking again changes nothing."""
    attempt = Attempt(request.user.id, idempotency_key, b"cancel %d" % reservation_id)
    trace = traceparent(request.scope)
    accepted = await sync_to_thread(_cancel, desk, attempt, reservation_id, trace)
    return await _answer(desk, accepted, prefer)


def _reserve(desk: Desk, attempt: Attempt, asked: NewStay, trace: str) -> Accepted:
    message_id = uuid4()
    with desk.engine.begin() as connection:
        if earlier := idempotency.answered(connection, attempt):
            return _replayed(earlier)

        # Judged after the key: what was accepted yesterday is not too late today.
        wish = _wish(attempt.member_id, asked, desk)
        reservation = store.insert(connection, wish, message_id)
        request = messages.room_reserve(
            reservation.id, reservation.room_id, reservation.stay, message_id
        )
        outbox.append(connection, [request], headers={"traceparent": trace})
        return _kept(connection, attempt, reservation)


def _cancel(desk: Desk, attempt: Attempt, reservation_id: int, trace: str) -> Accepted:
    message_id = uuid4()
    with desk.engine.begin() as connection:
        if earlier := idempotency.answered(connection, attempt):
            return _replayed(earlier)

        reservation = _locked(connection, reservation_id, attempt.member_id)
        match cancel(reservation):
            case NotCancellable() as refusal:
                raise Refused(refusal)
            case Reservation() as cancelling:
                [reservation] = store.save_transitions(connection, [(cancelling, message_id)])
                request = messages.room_cancel(
                    reservation.id, reservation.room_id, reservation.stay, message_id
                )
                outbox.append(connection, [request], headers={"traceparent": trace})
            case Unchanged():
                pass
        return _kept(connection, attempt, reservation)


def _wish(member_id: int, asked: NewStay, desk: Desk) -> NewReservation:
    # Until it is over everywhere, a day may be the hotel's today.
    today = (datetime.now(UTC) - timedelta(hours=12)).date()
    wish = new(
        member_id,
        asked.room_id,
        Stay(asked.check_in_date, asked.check_out_date),
        today=today,
        nights_max=desk.nights_max,
        days_max=desk.days_max,
    )
    if isinstance(wish, NotReservable):
        raise Refused(wish)
    return wish


def _locked(connection: Connection, reservation_id: int, member_id: int) -> Reservation:
    """Lock a member's reservation; raises `Missing`, also for one of somebody else."""
    reservation = store.lock(connection, [reservation_id]).get(reservation_id)
    if reservation is None or reservation.member_id != member_id:
        raise Missing
    return reservation


def _kept(connection: Connection, attempt: Attempt, reservation: Reservation) -> Accepted:
    view = ReservationView.of(reservation)
    idempotency.keep(connection, attempt, view.id, msgspec.json.encode(view))
    return Accepted(view)


def _replayed(answer: bytes) -> Accepted:
    return Accepted(msgspec.json.decode(answer, type=ReservationView), replayed=True)


async def _answer(desk: Desk, accepted: Accepted, prefer: str | None) -> Response[ReservationView]:
    view = accepted.view
    headers = {"Location": f"/v1/reservations/{view.id}"}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    if (seconds := wait_s(prefer, desk.wait_s_max)) is not None:
        headers["Preference-Applied"] = f"wait={seconds:g}"
        if latest := await desk.waiters.ended(view.id, seconds):
            view = ReservationView.of(latest)
    return Response(view, status_code=202 if view.status.open else 200, headers=headers)
