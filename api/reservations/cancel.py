"""POST /v1/reservations/{id}/cancellation.

What is answered 2xx is committed: the reservation's next version, its transition, the message to the
rooms and the idempotency key are one transaction. Members cancel for themselves, the staff for anybody;
another member's reservation is not found.
"""

from typing import Annotated

from litestar import Response, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.params import HeaderParameter
from sqlalchemy import Connection

import outbox
from api.identity.auth import MemberRequest, needs
from api.identity.row_security import set_member
from api.identity.scopes import WRITE
from api.identity.tokens import Member
from api.problems import OF_A_CHANGE, NotFound, ProblemError, refused
from api.requests.bodies import IdInPath
from api.requests.conditions import Prefer, is_meant
from api.requests.idempotency import Key, is_repeat, keyed_request
from api.requests.trace import traceparent
from api.reservations.access import cause_of, database_member, earlier
from api.reservations.answer import ENDED, answer
from api.reservations.deps import Dependencies
from api.reservations.views import ReservationView
from domain import messages
from domain.idempotency import RESERVATION_KEYS, KeyedRequest
from domain.reservations import store
from domain.reservations.model import NotCancellable, Reservation, Unchanged, cancel

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        description="ETags of versions: 412 unless one of them is current (RFC 9110).",
    ),
]


@post(
    "/{reservation_id:int}/cancellation",
    operation_id="cancelReservation",
    summary="Cancel a reservation",
    status_code=202,
    **needs(WRITE, *OF_A_CHANGE, "NOT_FOUND", "NOT_CANCELLABLE", "PRECONDITION_FAILED", also=ENDED),
)
async def cancel_one(
    reservation_id: IdInPath,
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    idempotency_key: Key = None,
    if_match: IfMatch = None,
    prefer: Prefer = None,
) -> Response[ReservationView]:
    """Begin to cancel; the rooms give the nights back later. Asking again changes nothing."""
    content = b"cancel %d" % reservation_id
    keyed = keyed_request(request.user.id, idempotency_key, content)
    reservation, was_done = await sync_to_thread(
        _cancel, deps, request.user, keyed, reservation_id, if_match, traceparent(request.scope)
    )
    if not was_done:
        deps.changed(reservation.id)
    return await answer(deps, ReservationView.of(reservation), prefer, is_repeat=was_done)


def _cancel(
    deps: Dependencies,
    caller: Member,
    keyed: KeyedRequest,
    reservation_id: int,
    if_match: str | None,
    trace: str,
) -> tuple[Reservation, bool]:
    """Return the reservation, and whether an earlier request with the same key had cancelled it."""
    with deps.engine.begin() as connection:
        set_member(connection, database_member(caller))
        if is_repeat(connection, RESERVATION_KEYS, keyed, reservation_id=reservation_id):
            if found := earlier(connection, keyed, reservation_id):
                return found, True
            raise NotFound

        reservation = _locked(connection, reservation_id, caller)
        if not is_meant(if_match, reservation.version):
            current = f"the reservation is at version {reservation.version}"
            raise ProblemError("PRECONDITION_FAILED", current)
        match cancel(reservation):
            case NotCancellable() as refusal:
                raise refused(refusal)
            case Unchanged():
                return reservation, False
            case Reservation() as cancelling:
                return _cancelled(connection, cancelling, caller, trace), False


def _locked(connection: Connection, reservation_id: int, caller: Member) -> Reservation:
    reservation = store.lock(connection, [reservation_id]).get(reservation_id)
    if reservation is None or not (caller.is_staff or reservation.member_id == caller.id):
        raise NotFound
    return reservation


def _cancelled(
    connection: Connection, cancelling: Reservation, caller: Member, trace: str
) -> Reservation:
    cause = cause_of(caller, cancelling.member_id, trace)
    [cancelled] = store.save_transitions(connection, [(cancelling, cause)])
    request = messages.room_cancel(
        cancelled.id, cancelled.room_id, cancelled.stay, cause.message_id
    )
    outbox.append(connection, [request], headers={"traceparent": trace})
    return cancelled
