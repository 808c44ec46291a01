"""Errors become HTTP here and nowhere else: RFC 9457, `application/problem+json`.

    400  not JSON, not HTTP                  413  body too large
    401  who asks is not known               422  understood, and not possible
    403  known, and not allowed              500  a broken rule: logged, nothing told
    404  not there, or not for this member   503  the database is away: nothing is lost, try again
    405  not here                                 with the same Idempotency-Key
    409  possible, but not as things stand

`type` is `/problems/` with the code, `traceId` finds the log lines, `errors` points at each fault.
"""

from datetime import date
from functools import singledispatch
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from sqlalchemy import exc

from api import faults
from api.auth import ScopeMissing, Unauthenticated
from api.faults import Fault
from api.observe import trace_id, traceparent
from domain.reservations.idempotency import InFlight, Mismatch
from domain.reservations.model import NotCancellable, NotReservable, Refusal
from domain.rooms.calendar import BelowTaken, InvalidCapacity
from domain.stay import InvalidStay
from runtime.database import is_outage
from runtime.errors import first_line

# Raised by SQLAlchemy when the database, or a connection of the pool, cannot be had. A commit among
# them has an unknown outcome; the client repeats it under its idempotency key and learns which.
DATABASE_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
RETRY_AFTER_S = 1
MEDIA_TYPE = "application/problem+json"

_RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}
_log = structlog.get_logger(__name__)


class Refused(Exception):
    """Carries the domain's refusal to the edge; being raised, it rolls the transaction back."""

    def __init__(
        self, refusal: NotReservable | NotCancellable | Mismatch | InFlight | BelowTaken
    ) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class Missing(Exception):
    """It does not exist, or not for this member: the two look the same on purpose."""


class Invalid(Exception):
    """A parameter of the query that says nothing to us."""

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(detail, parameter=parameter)


class TakenNight(msgspec.Struct, frozen=True):
    night: date
    capacity: int
    taken: int


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """RFC 9457, with `traceId`, `errors` and `nights` of our own."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    trace_id: str | None = None
    errors: tuple[Fault, ...] = ()
    nights: tuple[TakenNight, ...] = ()


Answer = tuple[Problem, dict[str, str]]


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer an error; what the caller cannot have caused is logged."""
    problem, headers = _answer(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("unexpected error", path=request.url.path, exc_info=error)
    elif problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("database away", path=request.url.path, error=first_line(error))

    traced = msgspec.structs.replace(
        problem, instance=request.url.path, trace_id=trace_id(traceparent(request.scope))
    )
    return Response(
        msgspec.json.encode(traced),
        status_code=problem.status,
        media_type=MediaType.JSON,
        headers={**headers, "Content-Type": MEDIA_TYPE},
    )


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """Describe, for OpenAPI, the problems that any member may meet and these of a route's own."""
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type=MEDIA_TYPE,
        )
        for status in sorted({400, 401, 422, 503, *statuses})
    }


@singledispatch
def _answer(_: Exception) -> Answer:
    """One function for each kind of error; this one answers what none of us meant."""
    return _ours()


@_answer.register
def _(_: exc.OperationalError | exc.InterfaceError | exc.TimeoutError) -> Answer:
    return _away()


@_answer.register
def _(error: exc.DBAPIError) -> Answer:
    """Any other error of the driver's: a server that is read-only since a failover is away, too."""
    return _away() if is_outage(error) else _ours()


@_answer.register
def _(error: Unauthenticated) -> Answer:
    challenge = 'Bearer error="invalid_token"' if error.invalid else "Bearer"
    return _problem(401, error.code, error.detail), {"WWW-Authenticate": challenge}


@_answer.register
def _(error: ScopeMissing) -> Answer:
    challenge = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return _problem(403, error.code, str(error)), {"WWW-Authenticate": challenge}


@_answer.register
def _(_: Missing) -> Answer:
    return _problem(404, "NOT_FOUND", "there is nothing here for you"), {}


@_answer.register
def _(error: Refused) -> Answer:
    match error.refusal:
        case NotReservable(code, text):
            pointer = "checkOutDate" if code is Refusal.STAY_TOO_LONG else "checkInDate"
            return _problem(422, code, text, Fault(text, pointer=f"#/{pointer}")), {}
        case NotCancellable(reservation, code):
            return _problem(409, code, f"the reservation is {reservation.status}"), {}
        case Mismatch(code):
            return _problem(422, code, "this key was used for another request"), {}
        case InFlight(code):
            detail = "the first request with this key is still being done"
            return _problem(409, code, detail), _RETRY_AFTER
        case BelowTaken(nights, code):
            taken = tuple(TakenNight(night.on, night.capacity, night.taken) for night in nights)
            problem = _problem(409, code, "more rooms are held; nothing was changed")
            return msgspec.structs.replace(problem, nights=taken), {}


@_answer.register
def _(error: InvalidStay) -> Answer:
    fault = Fault(error.reason, pointer="#/checkOutDate")
    return _problem(422, error.code, str(error), fault), {}


@_answer.register
def _(error: InvalidCapacity) -> Answer:
    return _problem(422, error.code, str(error)), {}


@_answer.register
def _(error: Invalid) -> Answer:
    return _invalid(error.fault)


@_answer.register
def _(error: msgspec.ValidationError) -> Answer:
    return _invalid(faults.of_body(error))


@_answer.register
def _(error: msgspec.DecodeError) -> Answer:
    return _problem(400, "MALFORMED_BODY", f"the body is not JSON: {error}"), {}


@_answer.register
def _(error: ValidationException) -> Answer:
    # An id that no row can have is an id that is not there.
    return (
        _answer(Missing()) if faults.is_of_path(error) else _invalid(*faults.of_parameters(error))
    )


@_answer.register
def _(error: HTTPException) -> Answer:
    """What Litestar finds out by itself: routes, methods, sizes, hosts."""
    match error.status_code:
        case 404:
            return _answer(Missing())
        case 405:
            detail = "the Allow header names the methods there are"
            return _problem(405, "METHOD_NOT_ALLOWED", detail), error.headers or {}
        case 413:
            return _problem(413, "BODY_TOO_LARGE", "the body is over the limit"), {}
        case 400:
            return _problem(400, "BAD_REQUEST", error.detail), {}
    return _ours()


def _away() -> Answer:
    advice = "nothing is lost; repeat the request with the same Idempotency-Key"
    return _problem(503, "UNAVAILABLE", advice), _RETRY_AFTER


def _ours() -> Answer:
    return _problem(500, "INTERNAL_ERROR", "the fault is ours; it has been logged"), {}


def _invalid(*found: Fault) -> Answer:
    return _problem(422, "INVALID_REQUEST", "; ".join(fault.detail for fault in found), *found), {}


def _problem(status: int, code: str, detail: str, *errors: Fault) -> Problem:
    """The code is the type's name; in words, it is the title."""
    words = code.lower().split("_")
    title = " ".join(words).capitalize()
    return Problem(f"/problems/{'-'.join(words)}", title, status, detail, errors=errors)
