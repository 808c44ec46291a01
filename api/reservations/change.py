"""POST /v1/reservations, and POST /v1/reservations/{id}/cancellation.

What is answered 2xx is committed: the reservation's version, its transition, the message to the rooms and
the idempotency key are one transaction. To reserve is one round trip to the database; only what is
refused, or was done before, takes a second one, to learn which. Members reserve and cancel for
themselves, the staff for anybody; another member's reservation is not found.

The answer is 202 until the rooms have answered, 200 once the saga has ended.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody
from sqlalchemy import Connection

import outbox
from api.identity.auth import MemberRequest, needs
from api.identity.row_security import SETTING, set_member, setting_binds
from api.identity.scopes import WRITE
from api.identity.tokens import Member
from api.problems import OF_A_BODY, OF_A_CHANGE, NotFound, ProblemError, refused
from api.requests.bodies import IdInPath, Strict
from api.requests.conditions import Prefer, etag, is_meant, wait_s
from api.requests.idempotency import REPEATED, Key, is_repeat, keyed_request
from api.requests.trace import traceparent
from api.reservations.access import (
    cause_of,
    database_member,
    earlier,
    member_asked_for,
    member_connection,
)
from api.reservations.deps import Dependencies
from api.reservations.views import NewStay, ReservationView
from domain import messages
from domain.idempotency import RESERVATION_KEYS, InFlight, KeyedRequest
from domain.reservations import reserve as reserving
from domain.reservations import store
from domain.reservations.model import (
    NewReservation,
    NotCancellable,
    NotReservable,
    NotReservableCode,
    Reservation,
    Unchanged,
    cancel,
    new,
)
from domain.reservations.reserve import ReserveWrite, TooManyPending
from domain.stay import Stay
from runtime.settings import Settings

# Until it is over everywhere, a day may be the hotel's today.
_BEHIND = timedelta(hours=12)

_TAKE_TURN = reserving.take_turn_sql(SETTING)

_Refusal = NotReservable | InFlight | TooManyPending

ENDED = {
    200: ResponseSpec(ReservationView, generate_examples=False, description="The saga has ended")
}
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
    **needs(
        WRITE,
        *OF_A_BODY,
        *OF_A_CHANGE,
        *NotReservableCode,
        "TOO_MANY_PENDING",
        "INVALID_STAY",
        also=ENDED,
    ),
    dto=Strict[NewStay],
    return_dto=None,
)
async def reserve(
    data: JSONBody[NewStay],
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> Response[ReservationView]:
    """Accept the request; the rooms decide later. See Location, or wait with `Prefer: wait=N`."""
    caller, trace = request.user, traceparent(request.scope)
    keyed = keyed_request(caller.id, idempotency_key, b"reserve " + msgspec.json.encode(data))
    decision = _decided(data, caller, deps.settings)
    if isinstance(decision, NotReservable):
        outcome: Reservation | _Refusal = decision
    else:
        write = _write(decision, caller, keyed, trace, deps.settings.pending_per_member_max)
        message = await deps.topics.prepare(write.message.envelope, {"traceparent": trace})
        turn = _TAKE_TURN, setting_binds(database_member(caller))
        statements = reserving.statements(turn, deps.reserve_sql, write, message)
        _, rows = await deps.pool.execute(statements, after_commit=deps.doorbell.ring)
        outcome = reserving.outcome(write, rows)
    if is_repeat := not isinstance(outcome, Reservation):
        # The key decides first: what was accepted yesterday is not too late, or too much, today.
        outcome = await sync_to_thread(_earlier, deps, caller, keyed, outcome)
    return await _answer(deps, outcome, prefer, is_repeat=is_repeat)


def _decided(data: NewStay, caller: Member, settings: Settings) -> NewReservation | NotReservable:
    return new(
        member_asked_for(caller, data.member_id) or caller.id,
        data.room_id,
        Stay(data.check_in_date, data.check_out_date),
        today=(datetime.now(UTC) - _BEHIND).date(),
        nights_max=settings.nights_per_stay_max,
        days_max=settings.days_in_advance_max,
    )


def _write(
    request: NewReservation, caller: Member, keyed: KeyedRequest, trace: str, pending_max: int
) -> ReserveWrite:
    cause = cause_of(caller, request.member_id, trace)
    message = messages.room_reserve_template(request.room_id, request.stay, cause.message_id)
    return ReserveWrite(request, keyed, cause, message, pending_max)


def _earlier(
    deps: Dependencies, caller: Member, keyed: KeyedRequest, refusal: _Refusal
) -> Reservation:
    """Return what an earlier request with the key made; raises the refusal if there was none."""
    with member_connection(deps.reading, caller) as connection:
        if found := earlier(connection, keyed):
            return found
    raise refused(refusal)


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
        deps.changes.ring([reservation.id])  # wakes its watchers, in each process
    return await _answer(deps, reservation, prefer, is_repeat=was_done)


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


async def _answer(
    deps: Dependencies, reservation: Reservation, prefer: str | None, *, is_repeat: bool
) -> Response[ReservationView]:
    headers = {"Location": f"/v1/reservations/{reservation.id}"}
    if is_repeat:
        headers |= REPEATED
    if (seconds := wait_s(prefer, deps.settings.wait_s_max)) is not None:
        headers["Preference-Applied"] = f"wait={seconds:g}"
        # A repeat knows the reservation as the first request left it.
        is_current = not is_repeat
        reservation = await deps.watchers.ended(reservation, seconds, is_current=is_current)
    headers["ETag"] = etag(reservation.version)
    status = 202 if reservation.status.open else 200
    return Response(ReservationView.of(reservation), status_code=status, headers=headers)
