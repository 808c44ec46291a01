"""Errors become HTTP here and nowhere else: RFC 9457, `application/problem+json`.

    400  not JSON, not HTTP                  413  body too large
    401  the caller is unknown               422  understood, but not possible
    403  the caller is not allowed           500  a bug: logged, and nothing of it is told
    404  not found, or another member's      503  the database is unavailable: try again with the
    405  no such method                           same Idempotency-Key
    409  possible, but not in this state

One function for each kind of error says which problem it is.
"""

import math
from functools import singledispatch
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from sqlalchemy import exc

from api.identity.auth import ScopeMissing
from api.identity.rate_limit import TooManyRequests
from api.identity.tokens import KeysUnavailable, Unauthenticated
from api.problems import (
    MEDIA_TYPE,
    RETRY_AFTER,
    DomainRefusal,
    NamedNight,
    NotFound,
    Problem,
    ProblemError,
    faults,
    problem,
)
from api.problems.faults import Fault
from api.requests.trace import traceparent
from domain.idempotency import InFlight, Mismatch
from domain.reservations.model import NotCancellable, NotReservable, NotReservableCode
from domain.rooms.change import BelowTaken, InvalidRange, WithoutCapacity
from domain.stay import InvalidStay
from innbox_process.bounds import OutcomeUnknown
from innbox_process.database import advice, is_not_migrated, is_outage
from innbox_process.errors import first_line
from outbox import UnknownTopic
from runtime.traces import trace_id

_log = structlog.get_logger(__name__)

_BROKEN_OFF = "client disconnected prematurely"

Answer = tuple[Problem, dict[str, str]]


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer an error, and log it if the caller cannot have caused it."""
    found, headers = _answer(error)
    if found.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("unexpected error", path=request.url.path, advice=advice(error), exc_info=error)
    elif found.status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("unavailable", path=request.url.path, error=first_line(error))

    traced = msgspec.structs.replace(
        found, instance=request.url.path, trace_id=trace_id(traceparent(request.scope))
    )
    return Response(
        msgspec.json.encode(traced),
        status_code=found.status,
        media_type=MediaType.JSON,
        headers={**headers, "Content-Type": MEDIA_TYPE},
    )


@singledispatch
def _answer(_: Exception) -> Answer:
    """One function for each kind of error; this one answers unexpected errors."""
    return _internal_error()


@_answer.register
def _(error: exc.OperationalError | exc.InterfaceError | exc.TimeoutError) -> Answer:
    if isinstance(getattr(error, "orig", None), OutcomeUnknown):
        detail = "the database did not confirm the change; repeat it with the same Idempotency-Key"
        return problem("OUTCOME_UNKNOWN", detail), RETRY_AFTER
    return _unavailable()


@_answer.register
def _(error: exc.DBAPIError) -> Answer:
    """Any other error of the driver: a server that is read-only after a failover is unavailable, too.

    So is one whose schema is not migrated yet.
    """
    return _unavailable() if is_outage(error) or is_not_migrated(error) else _internal_error()


@_answer.register
def _(_: UnknownTopic) -> Answer:
    """`innbox topics`, which declares the topics, was not run yet."""
    return _unavailable()


@_answer.register
def _(error: Unauthenticated) -> Answer:
    challenge = 'Bearer error="invalid_token"' if error.invalid else "Bearer"
    return problem(error.code, error.detail), {"WWW-Authenticate": challenge}


@_answer.register
def _(error: ScopeMissing) -> Answer:
    challenge = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return problem(error.code, str(error)), {"WWW-Authenticate": challenge}


@_answer.register
def _(error: KeysUnavailable) -> Answer:
    return problem("UNAVAILABLE", str(error)), _retry_after(error.retry_after_s)


@_answer.register
def _(error: TooManyRequests) -> Answer:
    return problem(error.code, str(error)), _retry_after(error.wait_s)


@_answer.register
def _(_: NotFound) -> Answer:
    return problem("NOT_FOUND", "not found"), {}


@_answer.register
def _(error: DomainRefusal) -> Answer:
    match error.refusal:
        case NotReservable(code, text):
            pointer = "checkOutDate" if code is NotReservableCode.STAY_TOO_LONG else "checkInDate"
            return problem(code, text, Fault(text, pointer=f"#/{pointer}")), {}
        case NotCancellable(reservation, code):
            return problem(code, f"the reservation is {reservation.status}"), {}
        case Mismatch(code):
            return problem(code, "this key was used for another request"), {}
        case InFlight(code):
            detail = "the first request with this key is still running"
            return problem(code, detail), RETRY_AFTER
        case BelowTaken(nights, code):
            taken = tuple(NamedNight(night.on, night.capacity, night.taken) for night in nights)
            found = problem(code, "the capacity is below what is taken; nothing was changed")
            return msgspec.structs.replace(found, nights=taken), {}
        case WithoutCapacity(nights, code):
            text = "a night that is new needs a capacity"
            found = problem(code, text, Fault(text, pointer="#/capacity"))
            new = tuple(NamedNight(night) for night in nights)
            return msgspec.structs.replace(found, nights=new), {}


@_answer.register
def _(error: InvalidStay) -> Answer:
    fault = Fault(error.reason, pointer="#/checkOutDate")
    return problem(error.code, str(error), fault), {}


@_answer.register
def _(error: InvalidRange) -> Answer:
    return problem(error.code, str(error)), {}


@_answer.register
def _(error: ProblemError) -> Answer:
    return error.problem, error.headers


@_answer.register
def _(error: msgspec.ValidationError) -> Answer:
    return _invalid(faults.of_body(error))


@_answer.register
def _(error: msgspec.DecodeError) -> Answer:
    return problem("MALFORMED_BODY", f"the body is not JSON: {error}"), {}


@_answer.register
def _(error: ValidationException) -> Answer:
    # An id that no row can have is an id that is not there.
    return (
        _answer(NotFound()) if faults.is_of_path(error) else _invalid(*faults.of_parameters(error))
    )


@_answer.register
def _(error: InternalServerException) -> Answer:
    """Litestar raises one when a client disconnects within its body; nobody reads the answer."""
    if error.detail == _BROKEN_OFF:
        return problem("BAD_REQUEST", "the body ended early"), {}
    return _internal_error()


@_answer.register
def _(error: HTTPException) -> Answer:
    """What Litestar checks by itself: routes, methods, sizes."""
    match error.status_code:
        case 404:
            return _answer(NotFound())
        case 405:
            detail = "the Allow header names the methods there are"
            return problem("METHOD_NOT_ALLOWED", detail), error.headers or {}
        case 413:
            return problem("BODY_TOO_LARGE", "the body is over the limit"), {}
        case 400:
            return problem("BAD_REQUEST", error.detail), {}
    return _internal_error()


def _unavailable() -> Answer:
    advice = "the service is unavailable; repeat the request with the same Idempotency-Key"
    return problem("UNAVAILABLE", advice), RETRY_AFTER


def _retry_after(seconds: float) -> dict[str, str]:
    """Return the header, in whole seconds rounded up."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _internal_error() -> Answer:
    return problem("INTERNAL_ERROR", "internal error; it has been logged"), {}


def _invalid(*found: Fault) -> Answer:
    return problem("INVALID_REQUEST", "; ".join(fault.detail for fault in found), *found), {}
