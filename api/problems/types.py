"""Every problem that the API can answer: its status, when it happens, what to do, and an example.

From this one list answers are built, the OpenAPI document gets an example of each error, and the pages
that a problem's `type` leads to are served.
"""

from dataclasses import dataclass, field
from typing import Any, Final

_TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """`when` and `advice` are for people; `detail` is answered where nothing more exact is known.

    The example is of an answer to a request of `instance`, and has the extensions `example`.
    """

    code: str
    status: int
    when: str
    advice: str
    detail: str
    instance: str = "/v1/reservations"
    example: dict[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None

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
            **self.example,
        }


def _at(detail: str, pointer: str) -> dict[str, Any]:
    return {"errors": [{"detail": detail, "pointer": pointer}]}


_OTHER_DATES = "Ask for other dates."

TYPES: Final = {
    one.code: one
    for one in (
        ProblemType(
            "MALFORMED_BODY",
            400,
            "The body cannot be read: it is not JSON, or not of the type it claims to be.",
            "Send a body of the documented type.",
            "the body is not JSON: Input data was truncated",
        ),
        ProblemType(
            "BAD_REQUEST",
            400,
            "The request is not HTTP as the standard has it.",
            "Look at how the client writes its requests.",
            "the request is not valid",
        ),
        ProblemType(
            "UNAUTHENTICATED",
            401,
            "The bearer token is missing or not valid: expired, or issued for another service.",
            "Get a new token and repeat the request.",
            "the token has expired",
        ),
        ProblemType(
            "SCOPE_MISSING",
            403,
            "The token is good, but it lacks the scope for this, or to do it for another member.",
            "Get a token with the scope that `detail` and the header `WWW-Authenticate` name.",
            "this needs a token with the scope 'write'",
        ),
        ProblemType(
            "NOT_FOUND",
            404,
            "It does not exist, or it belongs to another member: both are answered alike on purpose.",
            "Check the address, and whose token is used.",
            "not found",
            "/v1/reservations/4711",
        ),
        ProblemType(
            "METHOD_NOT_ALLOWED",
            405,
            "The address exists, but knows no such method.",
            "Use a method that the header `Allow` names.",
            "the Allow header names the methods there are",
        ),
        ProblemType(
            "NOT_CANCELLABLE",
            409,
            "The reservation was rejected, so there is nothing to cancel.",
            "Nothing: it holds no room.",
            "the reservation is REJECTED",
            "/v1/reservations/4711/cancellation",
        ),
        ProblemType(
            "IDEMPOTENCY_KEY_IN_FLIGHT",
            409,
            "The first request with this Idempotency-Key is still running.",
            "Repeat it after `Retry-After` seconds, with the same key.",
            "the first request with this key is still running",
            retry_after_s=1,
        ),
        ProblemType(
            "TOO_MANY_PENDING",
            409,
            "The member has as many unanswered reservations as are allowed.",
            "Wait until some are confirmed or rejected, or cancel them.",
            "20 reservations wait for an answer; no more are accepted until some are answered",
        ),
        ProblemType(
            "CAPACITY_BELOW_TAKEN",
            409,
            "The new capacity is below the rooms already taken on a night; nothing was changed.",
            "Keep a capacity of at least `taken` on each of the `nights`.",
            "the capacity is below what is taken; nothing was changed",
            "/v1/rooms/7/nights",
            {"nights": [{"night": "2027-01-01", "capacity": 1, "taken": 2}]},
        ),
        ProblemType(
            "PRECONDITION_FAILED",
            412,
            "The reservation has changed since the version that `If-Match` names; nothing was done.",
            "Read it again, decide again, and send the new ETag.",
            "the reservation is at version 3",
            "/v1/reservations/4711/cancellation",
        ),
        ProblemType(
            "BODY_TOO_LARGE",
            413,
            "The body is over the limit.",
            "Send less at once.",
            "the body is over the limit",
        ),
        ProblemType(
            "UNSUPPORTED_MEDIA_TYPE",
            415,
            "This address does not accept the body's Content-Type or Content-Encoding.",
            "Send a Content-Type that the documentation names, and no Content-Encoding.",
            "the body must be application/json",
        ),
        ProblemType(
            "INVALID_REQUEST",
            422,
            "A field, parameter or header is missing, unknown, or not of its form.",
            "Change the request as `errors` says; the same one will be refused again.",
            "Expected `int`, got `str`",
            example=_at("Expected `int`, got `str`", "#/roomId"),
        ),
        ProblemType(
            "INVALID_STAY",
            422,
            "The dates make no stay: no night between them, too many, or outside the calendar.",
            _OTHER_DATES,
            "[2027-01-04, 2027-01-01) covers no night",
            example=_at("covers no night", "#/checkOutDate"),
        ),
        ProblemType(
            "CHECK_IN_PAST",
            422,
            "The check-in date is in the past.",
            _OTHER_DATES,
            "check-in 2026-01-01 is in the past",
            example=_at("check-in 2026-01-01 is in the past", "#/checkInDate"),
        ),
        ProblemType(
            "STAY_TOO_LONG",
            422,
            "The stay has more nights than are allowed.",
            _OTHER_DATES,
            "a stay is at most 30 nights",
            example=_at("a stay is at most 30 nights", "#/checkOutDate"),
        ),
        ProblemType(
            "TOO_FAR_AHEAD",
            422,
            "The check-in date is further ahead than can be reserved.",
            _OTHER_DATES,
            "check-in is at most 730 days ahead",
            example=_at("check-in is at most 730 days ahead", "#/checkInDate"),
        ),
        ProblemType(
            "IDEMPOTENCY_KEY_REUSED",
            422,
            "This Idempotency-Key was used for another request.",
            "Use a new key for each new request, and an old key only to repeat the same request.",
            "this key was used for another request",
        ),
        ProblemType(
            "INVALID_RANGE",
            422,
            "The dates make no range of nights: none between them, too many, or outside the calendar.",
            _OTHER_DATES,
            "[2027-01-04, 2027-01-01) covers no night",
            "/v1/rooms/7/nights",
        ),
        ProblemType(
            "NIGHT_WITHOUT_CAPACITY",
            422,
            "A night that is opened for the first time needs a capacity; nothing was changed.",
            "Send the capacity of the night.",
            "a night that is new needs a capacity",
            "/v1/rooms/7/nights",
            {
                **_at("a night that is new needs a capacity", "#/capacity"),
                "nights": [{"night": "2027-01-01"}],
            },
        ),
        ProblemType(
            "TOO_MANY_REQUESTS",
            429,
            "The member sends requests faster than the rate limit allows.",
            "Repeat it after `Retry-After` seconds; nothing was done.",
            "more than 50 requests a second",
        ),
        ProblemType(
            "INTERNAL_ERROR",
            500,
            "An error of this service; it has been logged.",
            "Repeat it with the same Idempotency-Key; if it happens again, report `traceId`.",
            "internal error; it has been logged",
        ),
        ProblemType(
            "UNAVAILABLE",
            503,
            "The database is unavailable, overloaded or not migrated yet, or the keys that verify "
            "tokens are unavailable. Nothing that was answered 2xx is lost.",
            "Repeat it after `Retry-After` seconds, with the same Idempotency-Key.",
            "the service is unavailable; repeat the request with the same Idempotency-Key",
            retry_after_s=1,
        ),
        ProblemType(
            "OUTCOME_UNKNOWN",
            503,
            "The database did not confirm the change in time, or the connection broke before it "
            "could. The change may have been made, or not.",
            "Repeat it after `Retry-After` seconds, with the same Idempotency-Key: it is done once. "
            "Without a key, check first whether it was done.",
            "the database did not confirm the change; repeat it with the same Idempotency-Key",
            retry_after_s=1,
        ),
        ProblemType(
            "TOO_MANY_STREAMS",
            503,
            "This process, or the member, has as many open event streams as are allowed.",
            "Close one and connect again after `Retry-After` seconds, or wait with `Prefer: wait`.",
            "2000 event streams are open; close one and try again",
            "/v1/reservations/4711/events",
            retry_after_s=1,
        ),
    )
}
