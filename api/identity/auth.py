"""Authorisation: the guard of all routes, and the scope that a route needs.

The guard runs before the body is read, so a stranger is told nothing about it. It finds out the member,
limits their rate, and then checks the request and the scope.

    Unauthenticated, KeysUnavailable   see api.identity.tokens
    TooManyRequests                    see api.identity.rate_limit
    ScopeMissing                       the member is known but may not do this
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypedDict

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.identity.rate_limit import RateLimiter
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
    STAFF: "act for any member and see all of them; in addition to `read` and `write`",
    INVENTORY: "change rooms and nights",
    OPERATE: "look at what is open",
}
_SCOPE = "needs_scope"

__all__ = [
    "INVENTORY",
    "OPERATE",
    "READ",
    "SCOPES",
    "STAFF",
    "WRITE",
    "AnyConnection",
    "Check",
    "Member",
    "MemberRequest",
    "ScopeMissing",
    "members_only",
    "needs",
    "scope_granted",
]

AnyConnection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[AnyConnection, BaseRouteHandler], Awaitable[None]]
Check = Callable[[AnyConnection, BaseRouteHandler], None]
MemberRequest = Request[Member, Any, Any]


class Needs(TypedDict):
    """What a route says of itself, to Litestar and to the OpenAPI document."""

    opt: dict[str, str]
    security: list[dict[str, list[str]]]


class ScopeMissing(Exception):
    code = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs a token with the scope {scope!r}")
        self.scope = scope


def members_only(tokens: Tokens, limiter: RateLimiter, *checks: Check) -> Guard:
    """Return the guard that lets members pass, none of them too fast, and then runs the checks in order.

    One guard for all of it: Litestar copies the route's handler for each guard of a request.
    """

    # Litestar would run a synchronous guard in a thread.
    async def guard(connection: AnyConnection, _: BaseRouteHandler) -> None:
        member = await tokens.member(_bearer(connection.scope["headers"]))
        limiter.acquire(member.id)
        connection.scope["user"] = member
        for check in checks:
            check(connection, connection.scope["route_handler"])

    return guard


def needs(scope: str) -> Needs:
    """Have a route let only members with this scope pass; `scope_granted` checks it."""
    return {"opt": {_SCOPE: scope}, "security": [{"bearer": [scope]}]}


def scope_granted(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Raise `ScopeMissing` if the route needs a scope that the member's token lacks."""
    scope = handler.opt.get(_SCOPE)
    if scope is not None and scope not in connection.user.scopes:
        raise ScopeMissing(scope)


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = [value for name, value in headers if name == b"authorization"]
    # Of two, a proxy before this process may have checked the other one.
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed", invalid=False)

    return token.strip()
