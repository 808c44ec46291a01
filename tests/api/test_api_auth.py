"""Who is believed: every way to be refused, and the ways to get in."""

import asyncio
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as rsa_key

from api.app import create_app
from api.identity import tokens
from api.identity.scopes import INVENTORY, READ, WRITE
from api.identity.signing import sign
from api.identity.tokens import Member, StaticKey, Tokens, Unauthenticated
from runtime.settings import Settings, SettingsError
from tests.support.api_client import ME, Api, a_port, an_api, some_settings
from tests.support.issuer import Issuer, a_private_key, claims, forged, pem_of
from tests.support.waiting import eventually

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
PRIVATE_KEYS = {name: a_private_key(name) for name in ("RS256", "ES256", "EdDSA")}
# As long as the tests take, and the same in each process that names its tests by them.
LONG_AGO, FAR_AHEAD = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
SECRET = "a key for tests, of thirty-two bytes or more"


def test_a_stranger_is_challenged_before_the_body_is_looked_at(api: Api) -> None:
    for header in (None, "Basic bWU6bWU=", "Bearer"):
        client = api.client({"Authorization": header} if header else {})
        response = client.post("/v1/reservations", content=b"{")
        assert_challenge(response, 401, "unauthenticated", "Bearer")


def test_of_two_tokens_none_is_believed(api: Api) -> None:
    """Whoever stands before us may have checked the other one."""
    good = ("Authorization", f"Bearer {sign(api.settings, ME)}")

    response = api.client({}).get("/v1/reservations", headers=[good, good])

    assert_challenge(response, 401, "unauthenticated", "Bearer")


def test_a_token_that_is_not_believed_is_challenged(api: Api) -> None:
    for token in ("x", "a.b.c", "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        headers = {b"Authorization": f"Bearer {token}".encode()}
        response = api.client({}).get("/v1/reservations", headers=headers)
        assert_challenge(response, 401, "unauthenticated", 'Bearer error="invalid_token"')


def test_a_scope_that_is_missing_is_named(api: Api) -> None:
    response = api.member(ME, "housekeeping").get("/v1/reservations")

    challenge = f'Bearer error="insufficient_scope", scope="{READ}"'
    assert_challenge(response, 403, "scope-missing", challenge)


def test_the_platform_needs_no_token(api: Api) -> None:
    for path in ("/healthz/live", "/metrics", "/schema"):
        assert api.client({}).get(path).status_code == 200


def test_without_its_issuer_the_api_starts_says_so_and_goes_on_when_it_comes(
    database_url: str,
) -> None:
    issuer = Issuer()
    issuer.add("first", "ES256")
    with (
        closing(a_port()) as kept,  # it has an address, and is away
        an_api(database_url, jwks_url=issuer.at(kept), jwks_cooldown_s=0.05) as api,
    ):
        anybody = api.client({})
        client = api.client(
            {"Authorization": f"Bearer {issuer.token('first', scope='read').decode()}"}
        )

        refused = client.get("/v1/reservations")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["type"] == "/problems/unavailable"
        eventually(lambda: "keys" in anybody.get("/healthz/ready").json()["problems"])

        with issuer.serving():
            eventually(lambda: client.get("/v1/reservations").status_code == 200)
            eventually(lambda: anybody.get("/healthz/ready").status_code == 200)
        assert client.get("/v1/reservations").status_code == 200


def test_beside_an_issuer_the_key_of_development_is_not_believed(database_url: str) -> None:
    issuer = Issuer()
    issuer.add("first", "ES256")
    with issuer.serving(), an_api(database_url, jwks_url=issuer.url) as api:
        ours = jwt.encode(claims(), SECRET, "HS256")
        for token, status in ((ours, 401), (issuer.token("first").decode(), 403)):
            client = api.client({"Authorization": f"Bearer {token}"})
            assert client.get("/v1/reservations").status_code == status


@pytest.mark.unit
def test_a_signed_token_says_who_it_is_what_they_may_and_for_how_long() -> None:
    before = int(time.time())
    member = member_of(sign(settings(), ME, [INVENTORY, "housekeeping"], lifetime_s=60))
    after = time.time()

    assert member.id == ME
    assert member.scopes == {INVENTORY, "housekeeping"}
    assert before + 60 <= member.expires_at <= after + 60
    assert not member.is_staff


@pytest.mark.unit
def test_unless_told_otherwise_a_member_may_read_and_write() -> None:
    assert member_of(sign(settings(), ME)).scopes == {READ, WRITE}


@pytest.mark.unit
@pytest.mark.parametrize(
    "changes",
    [
        {"exp": LONG_AGO},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": float("inf")},
        {"nbf": FAR_AHEAD},
        {"iat": FAR_AHEAD},
        {"aud": "another"},
        {"aud": None},
        {"aud": ["another", "a third"]},
        {"iss": "another"},
        {"iss": None},
        {"sub": None},
        {"sub": "me"},
        {"sub": "0"},
        {"sub": "-7"},
        {"sub": "\N{ARABIC-INDIC DIGIT SEVEN}"},
        {"sub": str(2**63)},
        {"sub": "7" * 5_000},
        {"sub": 7.0},
        {"sub": True},
        {"scope": ["inventory"]},
    ],
    ids=str,
)
def test_a_token_with_one_wrong_claim_is_not_believed(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        member_of(jwt.encode(claims(**changes), SECRET, "HS256"))


@pytest.mark.unit
@pytest.mark.parametrize("changes", [{"sub": ME}, {"aud": ["another", "innbox"]}], ids=str)
def test_a_token_may_say_it_as_some_issuers_do(changes: dict[str, Any]) -> None:
    """Numbers where the standard has texts, and several audiences."""
    assert member_of(jwt.encode(claims(**changes), SECRET, "HS256")).id == ME


@pytest.mark.unit
def test_clocks_may_differ_by_so_much_and_no_more() -> None:
    now = datetime.now(UTC)
    early = jwt.encode(claims(nbf=now + timedelta(seconds=100)), SECRET, "HS256")
    late = jwt.encode(claims(exp=now - timedelta(seconds=100)), SECRET, "HS256")

    for token in (early, late):
        assert member_of(token, settings(jwt_leeway_s=200)).id == ME
        with pytest.raises(Unauthenticated):
            member_of(token, settings(jwt_leeway_s=50))


@pytest.mark.unit
@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_a_public_key_verifies_and_is_never_taken_for_a_secret(algorithm: str) -> None:
    key = PRIVATE_KEYS[algorithm]
    public = settings(jwt_algorithm=algorithm, jwt_key=pem_of(key).decode())

    assert member_of(jwt.encode(claims(), key, algorithm), public).id == ME
    with pytest.raises(Unauthenticated):
        member_of(forged(pem_of(key)).decode(), public)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("none", ""), ("HS512", "k" * 64), ("ES256", PRIVATE_KEYS["ES256"])],
    ids=["none", "HS512", "ES256"],
)
def test_a_token_does_not_choose_its_algorithm(algorithm: str, key: Any) -> None:
    """Not even with the right key."""
    with pytest.raises(Unauthenticated):
        member_of(jwt.encode(claims(), key, algorithm), settings(jwt_key="k" * 64))


@pytest.mark.unit
def test_what_a_token_calls_critical_is_more_than_we_know() -> None:
    """Even where PyJWT knows it."""
    key = SECRET.encode()

    assert member_of(forged(key).decode()).id == ME
    with pytest.raises(Unauthenticated):
        member_of(forged(key, crit=["b64"], b64=True).decode())


@pytest.mark.unit
def test_another_key_is_not_believed() -> None:
    with pytest.raises(Unauthenticated):
        member_of(jwt.encode(claims(), "k" * 32, "HS256"))


@pytest.mark.unit
@pytest.mark.parametrize(
    "token",
    ["", "x", "..", "a.b.c", "é", "eyJhbGciOiJIUzI1NiJ9.W10.x", "\0", "W10.W10.", "a" * 60_000],
)
def test_rubbish_is_not_believed(token: str) -> None:
    with pytest.raises(Unauthenticated):
        member_of(token)


@pytest.mark.unit
def test_what_was_believed_is_remembered_until_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verifier = Counting(settings(jwt_leeway_s=10))
    token = jwt.encode(claims(exp=int(time.time()) + 60), SECRET, "HS256")

    assert [verifier.member(token) for _ in range(3)] == [verifier.member(token)] * 3
    assert verifier.verified == 1

    expires_at = verifier.member(token).expires_at
    monkeypatch.setattr(time, "time", lambda: expires_at + 9.9)
    verifier.member(token)
    assert verifier.verified == 1

    monkeypatch.setattr(time, "time", lambda: expires_at + 10)
    verifier.member(token)  # by PyJWT's clock it is still good
    assert verifier.verified == 2


@pytest.mark.unit
def test_what_was_refused_is_not_remembered() -> None:
    verifier = Counting(settings())
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            verifier.member(jwt.encode(claims(aud="another"), SECRET, "HS256"))
    assert verifier.verified == 2


@pytest.mark.unit
def test_the_one_that_was_not_seen_for_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_MAX", 2)
    verifier = Counting(settings())
    first, second, third = (jwt.encode(claims(sub=n), SECRET, "HS256") for n in (1, 2, 3))

    for token in (first, second, first, third, first):
        verifier.member(token)
    assert verifier.verified == 3

    verifier.member(second)
    assert verifier.verified == 4


@pytest.mark.unit
@pytest.mark.parametrize(
    "changes",
    [
        {"jwt_key": ""},
        {"jwt_key": "short"},
        {"jwt_key": "not a key", "jwt_algorithm": "ES256"},
        {"jwt_key": pem_of(rsa_key(65537, 1024)).decode(), "jwt_algorithm": "RS256"},
        {"jwt_key": pem_of(PRIVATE_KEYS["RS256"]).decode(), "jwt_algorithm": "ES256"},
        {"jwt_key": pem_of(PRIVATE_KEYS["ES256"]).decode(), "jwt_algorithm": "HS256"},
    ],
    ids=["none", "short", "no PEM", "short RSA", "of another algorithm", "a PEM as a secret"],
)
def test_without_a_usable_key_the_api_does_not_start(changes: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="JWT_KEY"):
        create_app(settings(**changes))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": "production"}, "ENVIRONMENT"),
        ({"jwt_algorithm": "ES256", "jwt_key": pem_of(PRIVATE_KEYS["ES256"]).decode()}, "JWT_ALG"),
        ({"jwks_url": "https://id.example/jwks"}, "JWKS_URL"),
    ],
    ids=["production", "ES256", "an issuer"],
)
def test_tokens_are_made_for_development_alone(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        sign(settings(**changes), ME)


class Counting(Tokens):
    """Counts how often it had to verify."""

    def __init__(self, settings_: Settings) -> None:
        super().__init__(StaticKey(settings_), settings_)
        self.verified = 0

    def member(self, token: str) -> Member:  # type: ignore[override]
        return asyncio.run(super().member(token.encode()))

    def _member(self, token: bytes, key: tokens.Key) -> Member:
        self.verified += 1
        return super()._member(token, key)


def settings(**changes: object) -> Settings:
    return some_settings(NOWHERE, jwt_key=changes.pop("jwt_key", SECRET), **changes)


def member_of(token: str, settings_: Settings | None = None) -> Member:
    return Counting(settings_ or settings()).member(token)


def assert_challenge(response: httpx.Response, status: int, code: str, challenge: str) -> None:
    assert response.status_code == status
    assert response.headers["WWW-Authenticate"] == challenge
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == f"/problems/{code}"
