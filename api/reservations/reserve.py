"""POST /v1/reservations: read, decide, one round trip to the database, answer.

What is answered 2xx is committed: reservation, transition, message and idempotency key are one
transaction. Only what is refused, or was done before, takes a second round trip, to learn which.
"""

from datetime import UTC, datetime, timedelta

import msgspec
from litestar import Response, post
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.params import JSONBody

from api.identity.auth import MemberRequest, needs
from api.identity.row_security import set_member_statement
from api.identity.scopes import WRITE
from api.identity.tokens import Member
from api.problems import OF_A_BODY, OF_A_CHANGE, refused
from api.requests.bodies import Strict
from api.requests.conditions import Prefer
from api.requests.idempotency import Key, keyed_request
from api.requests.trace import traceparent
from api.reservations.access import (
    cause_of,
    database_member,
    earlier,
    member_asked_for,
    member_connection,
)
from api.reservations.answer import ENDED, answer
from api.reservations.deps import Dependencies
from api.reservations.views import NewStay, ReservationView
from domain.idempotency import InFlight, KeyedRequest
from domain.messages import room_reserve_template
from domain.reservations import reserve as reserving
from domain.reservations.model import (
    NewReservation,
    NotReservable,
    NotReservableCode,
    Reservation,
    new,
)
from domain.reservations.reserve import ReserveWrite, TooManyPending
from domain.stay import Stay
from runtime.settings import Settings

# Until it is over everywhere, a day may be the hotel's today.
_BEHIND = timedelta(hours=12)

_Refusal = NotReservable | InFlight | TooManyPending


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
        who = set_member_statement(database_member(caller))
        statements = reserving.statements(deps.reserve_sql, write, message)
        *_, rows = await deps.pool.execute([who, *statements], after_commit=deps.doorbell.ring)
        outcome = reserving.outcome(write, rows)
    if is_repeat := not isinstance(outcome, Reservation):
        # The key decides first: what was accepted yesterday is not too late, or too much, today.
        outcome = await sync_to_thread(_earlier, deps, caller, keyed, outcome)
    return await answer(deps, ReservationView.of(outcome), prefer, is_repeat=is_repeat)


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
    message = room_reserve_template(request.room_id, request.stay, cause.message_id)
    return ReserveWrite(request, keyed, cause, message, pending_max)


def _earlier(
    deps: Dependencies, caller: Member, keyed: KeyedRequest, refusal: _Refusal
) -> Reservation:
    """Return what an earlier request with the key made; raises the refusal if there was none."""
    with member_connection(deps.reading, caller) as connection:
        if found := earlier(connection, keyed):
            return found
    raise refused(refusal)
