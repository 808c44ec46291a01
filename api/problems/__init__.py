"""Problems: what is raised where a request cannot be done, and what is answered then (RFC 9457).

`type` is `/problems/` with the code, `traceId` finds the log lines, `errors` points at each fault. Which
other error becomes which problem is said in `api/middleware/errors.py`.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import date

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from sqlalchemy import exc

from api.problems.faults import Fault
from api.problems.types import TYPES, ProblemType
from domain.idempotency import InFlight, Mismatch
from domain.reservations.model import NotCancellable, NotReservable, NotReservableCode
from domain.reservations.reserve import TooManyPending
from domain.rooms.change import BelowTaken, WithoutCapacity

# Raised by SQLAlchemy when the database, or a connection of the pool, is unavailable. A commit among
# them has an unknown outcome; the client repeats it under its idempotency key and learns which.
DATABASE_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
MEDIA_TYPE = "application/problem+json"
# What each route may answer, whatever it does.
ANYWHERE = (
    "BAD_REQUEST",
    "UNAUTHENTICATED",
    "INVALID_REQUEST",
    "TOO_MANY_REQUESTS",
    "INTERNAL_ERROR",
    "UNAVAILABLE",
)
# And each that reads a body, or makes a change under an idempotency key.
OF_A_BODY = ("MALFORMED_BODY", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
OF_A_CHANGE = ("OUTCOME_UNKNOWN", "IDEMPOTENCY_KEY_IN_FLIGHT", "IDEMPOTENCY_KEY_REUSED")

Refusal = (
    NotReservable
    | NotCancellable
    | TooManyPending
    | Mismatch
    | InFlight
    | BelowTaken
    | WithoutCapacity
)


class NamedNight(msgspec.Struct, frozen=True, omit_defaults=True):
    """A night that a change was refused for; one that is new has neither capacity nor taken."""

    night: date
    capacity: int | None = None
    taken: int | None = None


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """RFC 9457, with the extensions `traceId`, `errors` and `nights`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    trace_id: str | None = None
    errors: tuple[Fault, ...] = ()
    nights: tuple[NamedNight, ...] = ()


class ProblemError(Exception):
    """A request that is refused; raising it rolls the transaction back.

    The code is that of a problem type; its detail and Retry-After are answered unless others are given.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *errors: Fault,
        nights: Iterable[NamedNight] = (),
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        kind = TYPES[code]
        detail = detail or kind.detail
        super().__init__(detail)
        self.problem = Problem(
            kind.uri, kind.title, kind.status, detail, errors=errors, nights=tuple(nights)
        )
        self.headers = dict(headers or {})
        if wait_s := retry_after_s or kind.retry_after_s:
            self.headers["Retry-After"] = str(math.ceil(wait_s))


class NotFound(ProblemError):
    """It does not exist, or not for this member: both are answered alike on purpose."""

    code = "NOT_FOUND"

    def __init__(self) -> None:
        super().__init__(self.code)


class Invalid(ProblemError):
    """A `parameter` of the query, or a `header`, that is not valid."""

    def __init__(self, detail: str, **where: str) -> None:
        super().__init__("INVALID_REQUEST", detail, Fault(detail, **where))


def refused(refusal: Refusal) -> ProblemError:
    match refusal:
        case NotReservable(code, text):
            pointer = "checkOutDate" if code is NotReservableCode.STAY_TOO_LONG else "checkInDate"
            return ProblemError(code, text, Fault(text, pointer=f"#/{pointer}"))
        case NotCancellable(reservation, code):
            return ProblemError(code, f"the reservation is {reservation.status}")
        case TooManyPending(pending_max, code):
            until = "no more are accepted until some are answered"
            return ProblemError(code, f"{pending_max} reservations wait for an answer; {until}")
        case BelowTaken(nights, code):
            taken = (NamedNight(night.on, night.capacity, night.taken) for night in nights)
            return ProblemError(code, nights=taken)
        case WithoutCapacity(new, code):
            fault = Fault(TYPES[code].detail, pointer="#/capacity")
            return ProblemError(code, None, fault, nights=map(NamedNight, new))
        case Mismatch(code=code) | InFlight(code=code):
            return ProblemError(code)


def problem_responses(*codes: str, anywhere: Iterable[str] = ANYWHERE) -> dict[int, ResponseSpec]:
    """Describe, for OpenAPI, the problems that any member may meet and these of a route's own."""
    grouped: dict[int, list[ProblemType]] = {}
    for code, kind in TYPES.items():
        if code in {*anywhere, *codes}:
            grouped.setdefault(kind.status, []).append(kind)
    return {status: _specification(kinds) for status, kinds in sorted(grouped.items())}


def _specification(kinds: list[ProblemType]) -> ResponseSpec:
    return ResponseSpec(
        Problem,
        generate_examples=False,
        description="\n".join(f"- [{kind.title}]({kind.uri}): {kind.when}" for kind in kinds),
        media_type=MEDIA_TYPE,
        examples=[Example(kind.name, kind.title, value=kind.answer) for kind in kinds],
    )
