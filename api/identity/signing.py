"""JWT_KEY: what it verifies, and the tokens for development that are signed with it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from api.identity.scopes import READ, WRITE
from runtime.settings import Settings, SettingsError

TOKEN_LIFETIME_S = 3600

_HS256_KEY_BYTES_MIN = 32  # RFC 7518, section 3.2


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


def verification_key(settings: Settings) -> Any:  # noqa: ANN401 - as many types as algorithms
    """Return the key to verify with: a secret for HS256, else a public key in PEM."""
    key = settings.jwt_key.get_secret_value()
    if not key:
        raise SettingsError("JWT_KEY: neither it nor JWKS_URL is set, so no token can be verified")
    if settings.jwt_algorithm == "HS256" and len(key.encode()) < _HS256_KEY_BYTES_MIN:
        raise SettingsError(f"JWT_KEY: HS256 needs at least {_HS256_KEY_BYTES_MIN} bytes")
    algorithm = jwt.get_algorithm_by_name(settings.jwt_algorithm)
    try:
        prepared = algorithm.prepare_key(key)
    except (jwt.InvalidKeyError, ValueError) as error:
        raise SettingsError(f"JWT_KEY: not a key for {settings.jwt_algorithm}") from error
    if too_short := algorithm.check_key_length(prepared):
        raise SettingsError(f"JWT_KEY: {too_short}")
    return prepared
