"""A bearer token (JWT) becomes a member, or is refused.

A token is valid if a known key verifies it, by the one algorithm that the key is for; if it has not
expired; and if it names the audience and the issuer of the settings. Its `sub` is the member's id, its
`scope` a list separated by spaces. Its header chooses only which of the known keys is tried (RFC 8725).

A valid token is remembered until it expires or the keys change: to verify one takes up to a tenth of a
millisecond of the event loop. A digest stands for the token, so that all take the same room and none can
be read out of the memory.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import jwt

from api.identity.scopes import STAFF
from api.identity.signing import verification_key
from api.problems import ProblemError
from runtime.settings import Settings

REMEMBERED_MAX = 10_000

_MEMBER_ID_MAX = 2**63 - 1
_TYPES = frozenset({"jwt", "at+jwt"})  # RFC 9068 has the second


@dataclass(frozen=True, slots=True)
class Member:
    """The caller, their scopes, and until when the token is valid (seconds of the Unix clock)."""

    id: int
    scopes: frozenset[str] = frozenset()
    expires_at: float = float("inf")

    @property
    def is_staff(self) -> bool:
        return STAFF in self.scopes


class Unauthenticated(ProblemError):
    """The caller is unknown.

    By itself it is one answer for all that is wrong with a token: a stranger learns nothing from it.
    """

    code = "UNAUTHENTICATED"

    def __init__(
        self,
        detail: str = "the token is not valid here",
        challenge: str = 'Bearer error="invalid_token"',
    ) -> None:
        super().__init__(self.code, detail, headers={"WWW-Authenticate": challenge})


class KeysUnavailable(ProblemError):
    """The issuer's keys are not known, so no token can be verified; worth trying again later."""

    def __init__(self, retry_after_s: float) -> None:
        detail = "the issuer's signing keys are unavailable"
        super().__init__("UNAVAILABLE", detail, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class Key:
    """A key in the form that PyJWT takes, and the one algorithm that it may be used with."""

    algorithm: str
    material: Any


class SigningKeys(Protocol):
    """Where keys come from. A new `generation` says that an old key may be gone."""

    generation: int

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """Return the key that a token names; raises `Unauthenticated` or `KeysUnavailable`."""

    async def keep(self) -> None:
        """Keep the keys fresh, until cancelled."""


class StaticKey:
    """The key of JWT_KEY, whatever a token calls it."""

    generation = 0

    def __init__(self, settings: Settings) -> None:
        """Raise `SettingsError` without a usable key."""
        self._key = Key(settings.jwt_algorithm, verification_key(settings))

    async def find(self, _kid: str | None, algorithm: str) -> Key:
        if algorithm != self._key.algorithm:
            raise Unauthenticated
        return self._key

    async def keep(self) -> None:
        """Do nothing: the key stays the same while the process runs."""


class Tokens:
    """Finds the member of a token. Belongs to the event loop: call it from nowhere else."""

    def __init__(self, keys: SigningKeys, settings: Settings) -> None:
        self._keys = keys
        self._settings = settings
        self._remembered: OrderedDict[bytes, Member] = OrderedDict()
        self._generation = keys.generation

    async def member(self, token: bytes) -> Member:
        """Return the member of a token; raises `Unauthenticated` or `KeysUnavailable`."""
        digest = sha256(token).digest()
        return self._recalled(digest) or await self._verified(token, digest)

    def _recalled(self, digest: bytes) -> Member | None:
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._remembered.clear()
        member = self._remembered.get(digest)
        # The very instant at which it would not be verified any more.
        if member is None or member.expires_at <= time.time() - self._settings.jwt_leeway_s:
            return None
        self._remembered.move_to_end(digest)
        return member

    async def _verified(self, token: bytes, digest: bytes) -> Member:
        try:
            key = await self._keys.find(*_kid_and_algorithm(token))
            # Nothing is awaited from here on: what is remembered was verified with a key of now.
            member = self._member(token, key)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("the token has expired") from error
        # ValueError: PyJWT lets some through from tokens that are no JSON or no base64.
        except (jwt.InvalidTokenError, ValueError) as error:
            raise Unauthenticated from error
        self._recalled(digest)
        self._remembered[digest] = member
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return member

    def _member(self, token: bytes, key: Key) -> Member:
        claims = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],  # the key's own, never the token's
            audience=self._settings.jwt_audience,
            issuer=self._settings.jwt_issuer,
            leeway=self._settings.jwt_leeway_s,
            options={"require": ["exp", "sub", "aud", "iss"], "verify_sub": False},
        )
        return Member(_member_id(claims["sub"]), _scopes(claims), int(claims["exp"]))


def _kid_and_algorithm(token: bytes) -> tuple[str | None, str]:
    """Read the header; raises `jwt.InvalidTokenError` for a header that needs what is not supported."""
    header = jwt.get_unverified_header(token)
    kind, algorithm = header.get("typ", "JWT"), header.get("alg")
    if "crit" in header or not isinstance(kind, str) or not isinstance(algorithm, str):
        raise jwt.InvalidTokenError("an unsupported header")
    if kind.lower().removeprefix("application/") not in _TYPES:
        raise jwt.InvalidTokenError("a token of another kind")

    return header.get("kid"), algorithm


def _member_id(subject: object) -> int:
    """Read a `sub`: a decimal text, as the standard has it, or a number, as some issuers do."""
    if isinstance(subject, str) and subject.isascii() and subject.isdecimal():
        subject = int(subject)
    if type(subject) is not int or not 0 < subject <= _MEMBER_ID_MAX:
        raise jwt.InvalidTokenError("sub is no member id")

    return subject


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise jwt.InvalidTokenError("scope is no text")

    return frozenset(scope.split())
