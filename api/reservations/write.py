"""Asking for a room, and cancelling.

What is answered 2xx is committed: the reservation, its transition, the message to the rooms and the
idempotency key are one transaction. 202 says that the rooms have still to answer, 200 that the saga
has ended. Members reserve and cancel for themselves, the staff for anybody; what is another member's is
not there for a member.
"""

from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody
from litestar.status_codes import HTTP_202_ACCEPTED
from sqlalchemy import Connection

import outbox
from api.identity.acting import act_for
from api.identity.auth import WRITE, MemberRequest, needs
from api.identity.tokens import Member
from api.problems import OF_A_BODY, Declined, Missing, Refused, documented
from api.requests import idempotency
from api.requests.bodies import Strict
from api.requests.etags import etag, is_meant
from api.requests.idempotency import Attempt, Key
from api.requests.prefer import Prefer, wait_s
from api.requests.trace import traceparent
from api.reservations.desk import Desk, ReservationId
from api.reservations.looking import acts_for, find
from api.reservations.reserving import Asked, reserve_once
from api.reservations.views import NewStay, ReservationView
from domain import messages
from domain.idempotency import RESERVATION_KEYS
from domain.reservations import store
from domain.reservations.model import (
    Cause,
    NotCancellable,
    Reservation,
    Unchanged,
    by_member,
    cancel,
)
from runtime.ids import new_uuid
from runtime.traces import trace_id

ENDED = ResponseSpec(ReservationView, generate_examples=False, description="The saga has ended")

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        description="ETags of versions: 412 unless one of them is current (RFC 9110).",
    ),
]


@post(
    "/",
    operation_id="reserve",
    summary="Ask for a room",
    status_code=202,
    **needs(WRITE),
    responses={
        200: ENDED,
        **documented(
            "SCOPE_MISSING",
            "OUTCOME_UNKNOWN",
            "TOO_MANY_PENDING",
            "IDEMPOTENCY_KEY_IN_FLIGHT",
            "IDEMPOTENCY_KEY_REUSED",
            "INVALID_STAY",
            "CHECK_IN_PAST",
            "STAY_TOO_LONG",
            "TOO_FAR_AHEAD",
            *OF_A_BODY,
        ),
    },
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
    content = b"reserve " + msgspec.json.encode(data)
    attempt = Attempt.of(RESERVATION_KEYS, request.user.id, idempotency_key, content)
    asked = Asked(request.user, data, attempt, traceparent(request.scope))
    reservation, replayed = await reserve_once(desk, asked)
    return await _answer(desk, ReservationView.of(reservation), prefer, replayed=replayed)


@post(
    "/{reservation_id:int}/cancellation",
    operation_id="cancelReservation",
    summary="Cancel a reservation",
    status_code=202,
    **needs(WRITE),
    responses={
        200: ENDED,
        **documented(
            "SCOPE_MISSING",
            "OUTCOME_UNKNOWN",
            "NOT_FOUND",
            "NOT_CANCELLABLE",
            "IDEMPOTENCY_KEY_IN_FLIGHT",
            "IDEMPOTENCY_KEY_REUSED",
            "PRECONDITION_FAILED",
        ),
    },
)
async def cancel_one(
    reservation_id: ReservationId,
    request: MemberRequest,
    desk: NamedDependency[Desk],
    idempotency_key: Key = None,
    if_match: IfMatch = None,
    prefer: Prefer = None,
) -> Response[ReservationView]:
    """Begin to cancel; the rooms give the nights back later. Asking again changes nothing."""
    content = b"cancel %d" % reservation_id
    attempt = Attempt.of(RESERVATION_KEYS, request.user.id, idempotency_key, content)
    view, replayed = await sync_to_thread(
        _cancel, desk, request.user, attempt, reservation_id, if_match, traceparent(request.scope)
    )
    if not replayed:
        desk.changed(view.id)
    return await _answer(desk, view, prefer, replayed=replayed)


def _cancel(
    desk: Desk,
    caller: Member,
    attempt: Attempt,
    reservation_id: int,
    if_match: str | None,
    trace: str,
) -> tuple[ReservationView, bool]:
    """Return the reservation, and whether an earlier request with the same key had cancelled it."""
    with desk.engine.begin() as connection:
        act_for(connection, acts_for(caller))
        if earlier := idempotency.answered(connection, attempt):
            view = idempotency.as_kept(earlier.response_body, ReservationView)
            return view or ReservationView.of(find(connection, reservation_id, caller)), True

        reservation = _locked(connection, reservation_id, caller)
        if not is_meant(if_match, reservation.version):
            current = f"the reservation is at version {reservation.version}"
            raise Declined("PRECONDITION_FAILED", current)
        match cancel(reservation):
            case NotCancellable() as refusal:
                raise Refused(refusal)
            case Reservation() as cancelling:
                reservation = _cancelled(connection, cancelling, caller, trace)
            case Unchanged():
                pass
        view = ReservationView.of(reservation)
        idempotency.keep(connection, attempt, HTTP_202_ACCEPTED, msgspec.json.encode(view))
        return view, False


def _locked(connection: Connection, reservation_id: int, caller: Member) -> Reservation:
    """Lock what the caller may cancel; raises `Missing`, also for one of somebody else."""
    reservation = store.lock(connection, [reservation_id]).get(reservation_id)
    if reservation is None or not (caller.is_staff or reservation.member_id == caller.id):
        raise Missing
    return reservation


def _cancelled(
    connection: Connection, cancelling: Reservation, caller: Member, trace: str
) -> Reservation:
    is_for_another = cancelling.member_id != caller.id
    cause = Cause(new_uuid(), by_member(caller.id, staff=is_for_another), trace_id(trace))
    [cancelled] = store.save_transitions(connection, [(cancelling, cause)])
    request = messages.room_cancel(
        cancelled.id, cancelled.room_id, cancelled.stay, cause.message_id
    )
    outbox.append(connection, [request], headers={"traceparent": trace})
    return cancelled


async def _answer(
    desk: Desk, view: ReservationView, prefer: str | None, *, replayed: bool
) -> Response[ReservationView]:
    headers = {"Location": f"/v1/reservations/{view.id}"}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    if (seconds := wait_s(prefer, desk.settings.wait_s_max)) is not None:
        headers["Preference-Applied"] = f"wait={seconds:g}"
        if latest := await desk.waiters.ended(view.id, seconds):
            view = ReservationView.of(latest)
    headers["ETag"] = etag(view.version)
    return Response(view, status_code=202 if view.status.open else 200, headers=headers)
