"""Who may do what: guards for routes, and tokens for development.

Guards run before the body is read, so a stranger is told nothing about it. The first one knows the
member, and holds them to their pace; `needs` follows it where a route asks for more than to be known.

    Unauthenticated, KeysAway   see api.tokens
    TooManyRequests             see api.limits
    ScopeMissing                the member is known but may not do this
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from api.limits import Pace
from api.tokens import STAFF, Member, Tokens, Unauthenticated, verification_key
from runtime.settings import Settings, SettingsError

READ = "read"  # look at reservations
WRITE = "write"  # reserve and cancel
INVENTORY = "inventory"  # change rooms and nights
OPERATE = "operate"  # look at what is open
TOKEN_LIFETIME_S = 3600

__all__ = [
    "INVENTORY",
    "OPERATE",
    "READ",
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


def needs(scope: str) -> Guard:
    """Return the guard that lets only members with this scope pass; it follows `authenticated`."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if scope not in connection.user.scopes:
            raise ScopeMissing(scope)

    return guard


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
