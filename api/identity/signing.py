"""Tokens for development, signed with JWT_KEY."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import jwt

from api.identity.tokens import READ, WRITE, verification_key
from runtime.settings import Settings, SettingsError

TOKEN_LIFETIME_S = 3600


def sign(
    settings: Settings,
    member: int,
    scopes: Iterable[str] = (READ, WRITE),
    lifetime_s: float = TOKEN_LIFETIME_S,
) -> str:
    """Make a token for development; raises `SettingsError` where an issuer makes the tokens."""
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
