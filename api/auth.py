"""Who asks: a bearer token (JWT) becomes a member.

A token is believed if it is signed with the one configured algorithm, has not expired, and names our
audience and issuer. Its `sub` is the member's id, its `scope` a list separated by spaces.

    Unauthenticated   no token, or one that is not believed
    ScopeMissing      the member is known but may not do this
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from runtime.settings import Settings, SettingsError

INVENTORY = "inventory"
TOKEN_LIFETIME_S = 3600

_LEEWAY_S = 10  # clocks differ by so much in well-kept fleets
_HS256_KEY_BYTES_MIN = 32  # RFC 7518, section 3.2
_MEMBER_ID_MAX = 2**63 - 1
_REQUIRED_CLAIMS = ["exp", "sub", "aud", "iss"]

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Member:
    id: int
    scopes: frozenset[str] = frozenset()


MemberRequest = Request[Member, Any, Any]


class Unauthenticated(Exception):
    """We do not know who asks; `invalid` tells a bad token from a missing one."""

    code = "UNAUTHENTICATED"

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.invalid = invalid


class ScopeMissing(Exception):
    code = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs a token with the scope {scope!r}")
        self.scope = scope


def authenticated(settings: Settings) -> Guard:
    """Return the guard that lets only members pass; raises `SettingsError` without a usable key.

    Guards run before the body is read, so a stranger is told nothing about it.
    """
    key = verification_key(settings)

    # Litestar would run a synchronous guard in a thread.
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        token = _bearer(connection.headers.get("Authorization"))
        connection.scope["user"] = verified(token, settings, key)

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
    scopes: Iterable[str] = (),
    lifetime_s: float = TOKEN_LIFETIME_S,
) -> str:
    """Make a token for development; in production tokens come from elsewhere."""
    if settings.environment == "production":
        raise SettingsError("ENVIRONMENT: tokens are not made in production")
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


def verification_key(settings: Settings) -> Any:  # noqa: ANN401 - as many types as algorithms
    """Return the key to verify with: a secret for HS256, else a public key in PEM."""
    key = settings.jwt_key.get_secret_value()
    if not key:
        raise SettingsError("JWT_KEY: not set; without it no member can be known")
    if settings.jwt_algorithm == "HS256" and len(key.encode()) < _HS256_KEY_BYTES_MIN:
        raise SettingsError(f"JWT_KEY: HS256 needs at least {_HS256_KEY_BYTES_MIN} bytes")
    try:
        return jwt.get_algorithm_by_name(settings.jwt_algorithm).prepare_key(key)
    except (jwt.InvalidKeyError, ValueError) as error:
        raise SettingsError(f"JWT_KEY: not a key for {settings.jwt_algorithm}") from error


def verified(token: str, settings: Settings, key: Any) -> Member:  # noqa: ANN401 - see above
    """Return the member of a token; raises `Unauthenticated`."""
    try:
        claims = jwt.decode(
            token,
            key,
            # Pinned: the token's own header never chooses how it is checked.
            algorithms=[settings.jwt_algorithm],
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=_LEEWAY_S,
            options={"require": _REQUIRED_CLAIMS, "verify_sub": False},
        )
        return Member(_member_id(claims["sub"]), _scopes(claims.get("scope", "")))
    except jwt.ExpiredSignatureError as error:
        raise Unauthenticated("the token has expired", invalid=True) from error
    # ValueError: PyJWT lets some through from tokens that are no JSON or no base64.
    except (jwt.InvalidTokenError, ValueError) as error:
        raise Unauthenticated("the token is not valid here", invalid=True) from error


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed", invalid=False)

    return token.strip()


def _member_id(subject: object) -> int:
    """Read a `sub`: a decimal text, as the standard has it, or a number, as some issuers do."""
    if isinstance(subject, str) and subject.isascii() and subject.isdecimal():
        subject = int(subject)
    if type(subject) is not int or not 0 < subject <= _MEMBER_ID_MAX:
        raise jwt.InvalidTokenError("sub is no member id")

    return subject


def _scopes(scope: object) -> frozenset[str]:
    if not isinstance(scope, str):
        raise jwt.InvalidTokenError("scope is no text")

    return frozenset(scope.split())
