"""Who may do what: guards for routes.

Guards run before the body is read, so a stranger is told nothing about it. The first one knows the
member, and holds them to their pace; `needs` follows it where a route asks for more than to be known.

    Unauthenticated, KeysAway   see api.identity.tokens
    TooManyRequests             see api.identity.limits
    ScopeMissing                the member is known but may not do this
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypedDict

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.identity.limits import Pace
from api.identity.tokens import (
    INVENTORY,
    OPERATE,
    READ,
    STAFF,
    WRITE,
    Member,
    Tokens,
    Unauthenticated,
)

SCOPES: Final = {
    READ: "look at reservations",
    WRITE: "reserve and cancel",
    STAFF: "act for any member, and see them all; beside `read` and `write`",
    INVENTORY: "change rooms and nights",
    OPERATE: "look at what is open",
}

__all__ = [
    "INVENTORY",
    "OPERATE",
    "READ",
    "SCOPES",
    "STAFF",
    "WRITE",
    "Guard",
    "Member",
    "MemberRequest",
    "ScopeMissing",
    "authenticated",
    "needs",
]

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]
MemberRequest = Request[Member, Any, Any]


class Needs(TypedDict):
    """What a route says of itself, to Litestar and to the OpenAPI document."""

    guards: list[Guard]
    security: list[dict[str, list[str]]]


class ScopeMissing(Exception):
    code = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs a token with the scope {scope!r}")
        self.scope = scope


def authenticated(tokens: Tokens, pace: Pace) -> Guard:
    """Return the guard that lets only members pass, and none of them too fast."""

    # Litestar would run a synchronous guard in a thread.
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        member = await tokens.member(_bearer(connection.scope["headers"]))
        pace.admit(member.id)
        connection.scope["user"] = member

    return guard


def needs(scope: str) -> Needs:
    """Have a route let only members with this scope pass; its guard follows `authenticated`."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if scope not in connection.user.scopes:
            raise ScopeMissing(scope)

    return {"guards": [guard], "security": [{"bearer": [scope]}]}


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = [value for name, value in headers if name == b"authorization"]
    # Of two, whoever stands before us may have checked the other one.
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed", invalid=False)

    return token.strip()
