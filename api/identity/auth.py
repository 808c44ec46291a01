"""Authorisation: the guard of all routes, the scope that a route needs, and tokens for development.

The guard runs before the body is read, so a stranger is told nothing about it. It finds out the member,
limits their rate, and then checks the request and the scope.

    Unauthenticated, KeysUnavailable   see api.identity.tokens
    TooManyRequests                    see api.identity.rate_limit
    ScopeMissing                       the member is known but may not do this
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

import jwt
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.identity.rate_limit import RateLimiter
from api.identity.tokens import STAFF, Member, Tokens, Unauthenticated, verification_key
from runtime.settings import Settings, SettingsError

READ = "read"
WRITE = "write"
INVENTORY = "inventory"
OPERATE = "operate"
SCOPES: Final = {
    READ: "look at reservations",
    WRITE: "reserve and cancel",
    STAFF: "act for any member and see all of them; in addition to `read` and `write`",
    INVENTORY: "change rooms and nights",
    OPERATE: "look at what is open",
}
TOKEN_LIFETIME_S = 3600
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
    "sign",
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


def sign(
    settings: Settings,
    member: int,
    scopes: Iterable[str] = (READ, WRITE),
    lifetime_s: float = TOKEN_LIFETIME_S,
) -> str:
    """Make a token for development; raises `SettingsError` where tokens come from elsewhere."""
    if settings.environment == "production":
        raise SettingsError("ENVIRONMENT: tokens are not made in production")
    if settings.jwks_url:
        raise SettingsError("JWKS_URL: tokens are made by the issuer; its private key is not here")
    if settings.jwt_algorithm != "HS256":
        raise SettingsError("JWT_ALGORITHM: only HS256 tokens are made here; the key is public")

    now = datetime.now(UTC)
    claims = {
        "sub": str(member),
        "scope": " ".join(scopes),
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + timedelta(seconds=lifetime_s),
    }
    return jwt.encode(claims, verification_key(settings), algorithm="HS256")


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = [value for name, value in headers if name == b"authorization"]
    # Of two, a proxy before this process may have checked the other one.
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed", invalid=False)

    return token.strip()
