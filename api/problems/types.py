"""Every problem that the API can answer: its status, when it happens, what to do, and an example.

From this one list answers are built, the OpenAPI document gets an example of each error, and the pages
that a problem's `type` leads to are served.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """`when` and `advice` are for people; `detail` is answered where nothing more exact is known.

    The example is of an answer to a request of `instance`.
    """

    code: str
    status: int
    when: str
    advice: str
    detail: str
    instance: str = "/v1/reservations"

    @property
    def retry_after_s(self) -> float | None:
        return 1.0 if self.code in _TRANSIENT else None

    @property
    def name(self) -> str:
        return self.code.lower().replace("_", "-")

    @property
    def uri(self) -> str:
        return f"/problems/{self.name}"

    @property
    def title(self) -> str:
        return self.code.replace("_", " ").capitalize()

    @property
    def page(self) -> dict[str, Any]:
        named = {"type": self.uri, "title": self.title, "status": self.status}
        return named | {"when": self.when, "advice": self.advice, "example": self.answer}

    @property
    def answer(self) -> dict[str, Any]:
        return {
            "type": self.uri,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": self.instance,
            "traceId": _TRACE_ID,
            **_EXTENSIONS.get(self.code, {}),
        }


# Of each: status and code (and where its example happens, if not where one reserves); when it happens;
# what to do; and the detail of its answers, if nothing more exact is known.
_CATALOGUE: Final = """
400 MALFORMED_BODY
The body cannot be read: it is not JSON, or not of the type it claims to be.
Send a body of the documented type.
the body is not JSON: Input data was truncated

400 BAD_REQUEST
The request is not HTTP as the standard has it.
Look at how the client writes its requests.
the request is not valid

401 UNAUTHENTICATED
The bearer token is missing or not valid: expired, or issued for another service.
Get a new token and repeat the request.
the token has expired

403 SCOPE_MISSING
The token is good, but it lacks the scope for this, or to do it for another member.
Get a token with the scope that `detail` and the header `WWW-Authenticate` name.
this needs a token with the scope 'write'

404 NOT_FOUND /v1/reservations/4711
It does not exist, or it belongs to another member: both are answered alike on purpose.
Check the address, and whose token is used.
not found

405 METHOD_NOT_ALLOWED
The address exists, but knows no such method.
Use a method that the header `Allow` names.
the Allow header names the methods there are

409 NOT_CANCELLABLE /v1/reservations/4711/cancellation
The reservation was rejected, so there is nothing to cancel.
Nothing: it holds no room.
the reservation is REJECTED

409 IDEMPOTENCY_KEY_IN_FLIGHT
The first request with this Idempotency-Key is still running.
Repeat it after `Retry-After` seconds, with the same key.
the first request with this key is still running

409 TOO_MANY_PENDING
The member has as many unanswered reservations as are allowed.
Wait until some are confirmed or rejected, or cancel them.
20 reservations wait for an answer; no more are accepted until some are answered

409 CAPACITY_BELOW_TAKEN /v1/rooms/7/nights
The new capacity is below the rooms already taken on a night; nothing was changed.
Keep a capacity of at least `taken` on each of the `nights`.
the capacity is below what is taken; nothing was changed

412 PRECONDITION_FAILED /v1/reservations/4711/cancellation
The reservation has changed since the version that `If-Match` names; nothing was done.
Read it again, decide again, and send the new ETag.
the reservation is at version 3

413 BODY_TOO_LARGE
The body is over the limit.
Send less at once.
the body is over the limit

415 UNSUPPORTED_MEDIA_TYPE
This address does not accept the body's Content-Type or Content-Encoding.
Send a Content-Type that the documentation names, and no Content-Encoding.
the body must be application/json

422 INVALID_REQUEST
A field, parameter or header is missing, unknown, or not of its form.
Change the request as `errors` says; the same one will be refused again.
Expected `int`, got `str`

422 INVALID_STAY
The dates make no stay: no night between them, too many, or outside the calendar.
Ask for other dates.
[2027-01-04, 2027-01-01) covers no night

422 CHECK_IN_PAST
The check-in date is in the past.
Ask for other dates.
check-in 2026-01-01 is in the past

422 STAY_TOO_LONG
The stay has more nights than are allowed.
Ask for other dates.
a stay is at most 30 nights

422 TOO_FAR_AHEAD
The check-in date is further ahead than can be reserved.
Ask for other dates.
check-in is at most 730 days ahead

422 IDEMPOTENCY_KEY_REUSED
This Idempotency-Key was used for another request.
Use a new key for each new request, and an old key only to repeat the same request.
this key was used for another request

422 INVALID_RANGE /v1/rooms/7/nights
The dates make no range of nights: none between them, too many, or outside the calendar.
Ask for other dates.
[2027-01-04, 2027-01-01) covers no night

422 NIGHT_WITHOUT_CAPACITY /v1/rooms/7/nights
A night that is opened for the first time needs a capacity; nothing was changed.
Send the capacity of the night.
a night that is new needs a capacity

429 TOO_MANY_REQUESTS
The member sends requests faster than the rate limit allows.
Repeat it after `Retry-After` seconds; nothing was done.
more than 50 requests a second

500 INTERNAL_ERROR
An error of this service; it has been logged.
Repeat it with the same Idempotency-Key; if it happens again, report `traceId`.
internal error; it has been logged

503 UNAVAILABLE
The database is unavailable, overloaded or not migrated yet, or the keys that verify tokens are \
unavailable. Nothing that was answered 2xx is lost.
Repeat it after `Retry-After` seconds, with the same Idempotency-Key.
the service is unavailable; repeat the request with the same Idempotency-Key

503 OUTCOME_UNKNOWN
The database did not confirm the change in time, or the connection broke before it could. The \
change may have been made, or not.
Repeat it after `Retry-After` seconds, with the same Idempotency-Key: it is done once. Without a \
key, check first whether it was done.
the database did not confirm the change; repeat it with the same Idempotency-Key

503 TOO_MANY_STREAMS /v1/reservations/4711/events
This process, or the member, has as many open event streams as are allowed.
Close one and connect again after `Retry-After` seconds, or wait with `Prefer: wait`.
2000 event streams are open; close one and try again
"""
# Worth trying again a second later.
_TRANSIENT: Final = {
    "IDEMPOTENCY_KEY_IN_FLIGHT",
    "OUTCOME_UNKNOWN",
    "TOO_MANY_STREAMS",
    "UNAVAILABLE",
}


def _types() -> Iterator[ProblemType]:
    for block in _CATALOGUE.strip().split("\n\n"):
        head, when, advice, detail = block.splitlines()
        status, code, *instance = head.split()
        yield ProblemType(code, int(status), when, advice, detail, *instance)


TYPES: Final = {one.code: one for one in _types()}


def _at(pointer: str, code: str, detail: str | None = None) -> dict[str, Any]:
    return {"errors": [{"detail": detail or TYPES[code].detail, "pointer": pointer}]}


# Of the examples.
_EXTENSIONS: Final[dict[str, dict[str, Any]]] = {
    "CAPACITY_BELOW_TAKEN": {"nights": [{"night": "2027-01-01", "capacity": 1, "taken": 2}]},
    "INVALID_REQUEST": _at("#/roomId", "INVALID_REQUEST"),
    "INVALID_STAY": _at("#/checkOutDate", "INVALID_STAY", "covers no night"),
    "CHECK_IN_PAST": _at("#/checkInDate", "CHECK_IN_PAST"),
    "STAY_TOO_LONG": _at("#/checkOutDate", "STAY_TOO_LONG"),
    "TOO_FAR_AHEAD": _at("#/checkInDate", "TOO_FAR_AHEAD"),
    "NIGHT_WITHOUT_CAPACITY": {
        **_at("#/capacity", "NIGHT_WITHOUT_CAPACITY"),
        "nights": [{"night": "2027-01-01"}],
    },
}
