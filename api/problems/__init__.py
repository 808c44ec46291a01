"""Problems: what is raised where a request cannot be done, and what is answered then (RFC 9457).

`type` is `/problems/` with the code, `traceId` finds the log lines, `errors` points at each fault. Which
error becomes which problem is said in `api/middleware/errors.py`.
"""

from collections.abc import Iterable, Mapping
from datetime import date

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from sqlalchemy import exc

from api.problems.faults import Fault
from api.problems.types import TYPES, ProblemType, types_of
from domain.idempotency import InFlight, Mismatch
from domain.reservations.model import NotCancellable, NotReservable
from domain.rooms.change import BelowTaken, WithoutCapacity

# Raised by SQLAlchemy when the database, or a connection of the pool, is unavailable. A commit among
# them has an unknown outcome; the client repeats it under its idempotency key and learns which.
DATABASE_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
RETRY_AFTER_S = 1
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
# And each that reads a body.
OF_A_BODY = ("MALFORMED_BODY", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")

RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}


class DomainRefusal(Exception):
    """Carries the domain's refusal to the edge; raising it rolls the transaction back."""

    def __init__(
        self,
        refusal: NotReservable
        | NotCancellable
        | Mismatch
        | InFlight
        | BelowTaken
        | WithoutCapacity,
    ) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class NotFound(Exception):
    """It does not exist, or not for this member: both are answered alike on purpose."""


class ProblemError(Exception):
    """Any other request that is refused; the code is that of a problem type."""

    def __init__(
        self, code: str, detail: str, *errors: Fault, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.problem = problem(code, detail, *errors)
        self.headers = dict(headers or {})


class Invalid(ProblemError):
    """A parameter of the query that is not valid."""

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__("INVALID_REQUEST", detail, Fault(detail, parameter=parameter))


class InvalidHeader(ProblemError):
    """A header that is not valid."""

    def __init__(self, header: str, detail: str) -> None:
        super().__init__("INVALID_REQUEST", detail, Fault(detail, header=header))


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


def problem(code: str, detail: str, *errors: Fault) -> Problem:
    """Make a problem of a registered type."""
    kind = TYPES[code]
    return Problem(kind.uri, kind.title, kind.status, detail, errors=errors)


def problem_responses(
    *which: int | str, anywhere: Iterable[str] = ANYWHERE
) -> dict[int, ResponseSpec]:
    """Describe, for OpenAPI, the problems that any member may meet and these of a route's own.

    They are named by their codes, or all of a status together by the status.
    """
    grouped: dict[int, list[ProblemType]] = {}
    for kind in types_of({*anywhere, *which}):
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
