"""The issuer's signing keys, from its JSON Web Key Set (RFC 7517), refreshed beside the requests.

    normal            fetched every JWKS_REFRESH_S; a key that has left the set is no longer accepted
    an unknown kid    fetched at once, one request for all that wait, and at most every JWKS_COOLDOWN_S
    no usable answer  the last good set is used for JWKS_STALE_S, then none

A request whose key is known never waits for the issuer, and no client can make this process hammer it.
A key is used with the one algorithm that it is for, and only if it is public, asymmetric, long enough
and for signatures; one without a `kid` cannot be named and is left out. A set without any such key is
not usable: an issuer that empties it by mistake locks nobody out.
"""

import asyncio
import time
from collections.abc import Callable
from ipaddress import ip_address

import httpx
import jwt
import msgspec
import structlog
from prometheus_client import Gauge

from api.identity.tokens import Key, KeysUnavailable, Unauthenticated
from innbox_process.errors import first_line
from innbox_process.health import Health
from runtime.settings import Settings, SettingsError

KEYS = "keys"
ANSWER_S_MAX = 5.0
DOCUMENT_BYTES_MAX = 262_144

FETCHED = Gauge(
    "innbox_jwks_fetched_timestamp_seconds", "When the issuer's keys were last fetched, Unix time."
)

_log = structlog.get_logger(__name__)


class Jwks:
    """Finds the issuer's keys. Belongs to the event loop: call it from nowhere else."""

    def __init__(
        self, settings: Settings, health: Health, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connects to nothing yet; raises `SettingsError` for an address that must not be trusted."""
        self.generation = 0
        self._url = _trustworthy(settings)
        self._algorithms = frozenset(settings.jwks_algorithms)
        self._settings = settings
        self._health = health
        self._clock = clock
        self._client = httpx.AsyncClient(
            timeout=ANSWER_S_MAX,
            # Five minutes later a connection that was kept would be a dead one.
            limits=httpx.Limits(max_keepalive_connections=0),
            # Unpacked, a small document may be a large one.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        self._document = b""
        self._keys: dict[tuple[str, str], Key] = {}
        self._fetched_at = self._requested_at = -float("inf")
        self._request: asyncio.Task[None] | None = None
        self._problem: str | None = "starting"
        health.unwell(KEYS, "starting")

    async def find(self, kid: str | None, algorithm: str) -> Key:
        if kid is None or algorithm not in self._algorithms:
            raise Unauthenticated
        if key := self._keys.get((kid, algorithm)):
            return key
        if self._request or self._clock() - self._requested_at >= self._settings.jwks_cooldown_s:
            await self.refresh()
        if key := self._keys.get((kid, algorithm)):
            return key
        raise Unauthenticated if self._keys else KeysUnavailable(self._settings.jwks_cooldown_s)

    async def refresh(self) -> None:
        """Fetch the keys; callers that come before the answer wait for the same one."""
        if self._request is None:
            self._request = asyncio.create_task(self._fetch())
        # A client that disconnects must not end the request that the others wait for.
        await asyncio.shield(self._request)

    async def keep(self) -> None:
        refresh_s = self._settings.jwks_refresh_s
        soon_s = min(self._settings.jwks_cooldown_s, refresh_s)
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(soon_s if self._problem else refresh_s)
        finally:
            if self._request:
                self._request.cancel()
            await self._client.aclose()

    async def _fetch(self) -> None:
        self._requested_at = self._clock()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                document = await self._fetched()
            self._accept(document, usable(document, self._algorithms))
        except Exception as error:  # noqa: BLE001 - whatever the issuer sends, the last keys are good
            self._keep_last(first_line(error) or type(error).__name__)
        finally:
            self._request = None

    async def _fetched(self) -> bytes:
        document = bytearray()
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"it answered {response.status_code}")
            async for part in response.aiter_raw():
                document += part
                if len(document) > DOCUMENT_BYTES_MAX:
                    raise ValueError(f"its answer is longer than {DOCUMENT_BYTES_MAX} bytes")
        return bytes(document)

    def _accept(self, document: bytes, keys: dict[tuple[str, str], Key]) -> None:
        if document != self._document:
            self._document, self._keys = document, keys
            self.generation += 1
            _log.info("signing keys fetched", kids=sorted(kid for kid, _ in keys))
        self._fetched_at, self._problem = self._clock(), None
        FETCHED.set_to_current_time()
        self._health.well(KEYS)

    def _keep_last(self, problem: str) -> None:
        """Go on with the last good set, as long as it may be used."""
        if self._keys and self._clock() - self._fetched_at >= self._settings.jwks_stale_s:
            self._document, self._keys = b"", {}
            self.generation += 1
        if problem != self._problem:
            _log.warning("cannot fetch the signing keys", error=problem, known=len(self._keys))
        self._problem = problem
        if not self._keys:
            self._health.unwell(KEYS, f"cannot fetch the issuer's signing keys: {problem}")


class _Jwk(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields that are read of a key; `d`, which only a private key has, is there to be refused."""

    kty: str
    kid: str
    alg: str | None = None
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None
    d: str | None = None


class _Document(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


def usable(document: bytes, algorithms: frozenset[str]) -> dict[tuple[str, str], Key]:
    """Return the keys by kid and algorithm; raises `ValueError` if there is none to use."""
    found: dict[tuple[str, str], Key] = {}
    for raw in msgspec.json.decode(document, type=_Document).keys:
        try:
            jwk = msgspec.json.decode(raw, type=_Jwk)
            key = _key(jwk)
        except (msgspec.ValidationError, jwt.PyJWTError, ValueError):
            continue  # of another kind, or broken: the others are as good without it
        if key and key.algorithm in algorithms:
            found.setdefault((jwk.kid, key.algorithm), key)
    if not found:
        raise ValueError("none of its keys can be used")
    return found


def _key(jwk: _Jwk) -> Key | None:
    if jwk.kty == "oct" or jwk.d or jwk.use != "sig" or "verify" not in jwk.key_ops:
        return None
    parsed = jwt.PyJWK.from_dict(msgspec.to_builtins(jwk))
    material = parsed.Algorithm.prepare_key(parsed.key)  # checks the curve, too
    if parsed.Algorithm.check_key_length(material):
        return None
    return Key(parsed.algorithm_name, material)


def _trustworthy(settings: Settings) -> httpx.URL:
    """Return the address, which decides who everybody is: in production over TLS or on this machine."""
    try:
        url = httpx.URL(settings.jwks_url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"JWKS_URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise SettingsError("JWKS_URL: not of the form https://host/path")
    if url.scheme == "http" and settings.environment == "production" and not _is_here(url.host):
        raise SettingsError("JWKS_URL: must be https in production")
    return url


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
