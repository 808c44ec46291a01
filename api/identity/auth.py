"""Who may do what: guards for routes, and tokens for development.

Guards run before the body is read, so a stranger is told nothing about it. The first one knows the
member, and holds them to their pace; `needs` follows it where a route asks for more than to be known.

    Unauthenticated, KeysAway   see api.identity.tokens
    TooManyRequests             see api.identity.limits
    ScopeMissing                the member is known but may not do this
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

import jwt
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.identity.limits import Pace
from api.identity.tokens import STAFF, Member, Tokens, Unauthenticated, verification_key
from runtime.settings import Settings, SettingsError

READ = "read"
WRITE = "write"
INVENTORY = "inventory"
OPERATE = "operate"
SCOPES: Final = {
    READ: "look at reservations",
    WRITE: "reserve and cancel",
    STAFF: "act for any member, and see them all; beside `read` and `write`",
    INVENTORY: "change rooms and nights",
    OPERATE: "look at what is open",
}
TOKEN_LIFETIME_S = 3600

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
    "sign",
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
    # Of two, whoever stands before us may have checked the other one.
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed", invalid=False)

    return token.strip()
