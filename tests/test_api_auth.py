"""Who is believed: every way to be refused, and the two ways to get in."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.app import create_app
from api.auth import INVENTORY, Unauthenticated, sign, verification_key, verified
from runtime.settings import Settings, SettingsError
from tests.api_client import ME, Api, an_api, some_settings

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
PRIVATE_KEY = generate_private_key(SECP256R1())
PUBLIC_KEY = PRIVATE_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with an_api(database_url) as api:
        yield api


def test_a_stranger_is_challenged_before_the_body_is_looked_at(api: Api) -> None:
    for headers in ({}, {"Authorization": "Basic bWU6bWU="}, {"Authorization": "Bearer"}):
        response = api.client(headers).post("/v1/reservations", content=b"{")
        assert_challenge(response, 401, "unauthenticated", "Bearer")


def test_a_token_that_is_not_believed_is_challenged(api: Api) -> None:
    response = api.client({"Authorization": "Bearer x"}).get("/v1/reservations")

    assert_challenge(response, 401, "unauthenticated", 'Bearer error="invalid_token"')


def test_the_inventory_is_for_those_with_its_scope(api: Api) -> None:
    nights = {"from": "2026-12-24", "to": "2026-12-25", "capacity": 1}

    refused = api.member(ME, "housekeeping").put("/v1/rooms/1/nights", json=nights)
    accepted = api.member(ME, "housekeeping", INVENTORY).put("/v1/rooms/1/nights", json=nights)

    challenge = f'Bearer error="insufficient_scope", scope="{INVENTORY}"'
    assert_challenge(refused, 403, "scope-missing", challenge)
    assert accepted.status_code == 200


def test_the_platform_needs_no_token(api: Api) -> None:
    for path in ("/healthz/live", "/metrics", "/schema"):
        assert httpx.get(api.url + path).status_code == 200


@pytest.mark.unit
def test_a_signed_token_says_who_it_is_and_what_they_may() -> None:
    member = member_of(sign(settings(), ME, [INVENTORY, "housekeeping"]))

    assert (member.id, member.scopes) == (ME, {INVENTORY, "housekeeping"})


@pytest.mark.unit
@pytest.mark.parametrize(
    "changes",
    [
        {"exp": datetime.now(UTC) - timedelta(minutes=1)},
        {"exp": None},
        {"nbf": datetime.now(UTC) + timedelta(minutes=1)},
        {"aud": "another"},
        {"aud": None},
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
    key = settings().jwt_key.get_secret_value()

    with pytest.raises(Unauthenticated):
        member_of(jwt.encode(claims(**changes), key, "HS256"))


@pytest.mark.unit
def test_a_number_is_a_member_too() -> None:
    """Some issuers write numbers where the standard has texts."""
    token = jwt.encode({**claims(), "sub": ME}, settings().jwt_key.get_secret_value(), "HS256")

    assert member_of(token).id == ME


@pytest.mark.unit
@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("none", ""), ("HS512", "k" * 64), ("ES256", PRIVATE_KEY)],
    ids=["none", "HS512", "ES256"],
)
def test_a_token_does_not_choose_its_algorithm(algorithm: str, key: Any) -> None:
    """Not even with the right key."""
    with pytest.raises(Unauthenticated):
        member_of(jwt.encode(claims(), key, algorithm), settings(jwt_key="k" * 64))


@pytest.mark.unit
def test_another_key_is_not_believed() -> None:
    with pytest.raises(Unauthenticated):
        member_of(jwt.encode(claims(), "k" * 32, "HS256"))


@pytest.mark.unit
def test_a_public_key_verifies_and_is_never_taken_for_a_secret() -> None:
    public = settings(jwt_algorithm="ES256", jwt_key=PUBLIC_KEY.decode())

    assert member_of(jwt.encode(claims(), PRIVATE_KEY, "ES256"), public).id == ME
    with pytest.raises(Unauthenticated):
        member_of(forged_with(PUBLIC_KEY), public)


@pytest.mark.unit
@pytest.mark.parametrize("token", ["", "x", "..", "a.b.c", "é", "eyJhbGciOiJIUzI1NiJ9.W10.x", "\0"])
def test_rubbish_is_not_believed(token: str) -> None:
    with pytest.raises(Unauthenticated):
        member_of(token)


@pytest.mark.unit
@pytest.mark.parametrize(
    "changes",
    [
        {"jwt_key": ""},
        {"jwt_key": "short"},
        {"jwt_key": "not a key", "jwt_algorithm": "ES256"},
        {"jwt_key": PUBLIC_KEY.decode(), "jwt_algorithm": "HS256"},
    ],
    ids=["none", "short", "no PEM", "a PEM as a secret"],
)
def test_without_a_usable_key_the_api_does_not_start(changes: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="JWT_KEY"):
        create_app(settings(**changes))


@pytest.mark.unit
@pytest.mark.parametrize(
    "changes",
    [{"environment": "production"}, {"jwt_algorithm": "ES256", "jwt_key": PUBLIC_KEY.decode()}],
    ids=["production", "ES256"],
)
def test_tokens_are_made_for_development_alone(changes: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        sign(settings(**changes), ME)


def settings(**changes: object) -> Settings:
    return some_settings(NOWHERE, **changes)


def claims(**changes: object) -> dict[str, Any]:
    """What a good token says, changed; None leaves a claim out."""
    good = {
        "sub": str(ME),
        "aud": "innbox",
        "iss": "innbox",
        "exp": datetime.now(UTC) + timedelta(minutes=1),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def member_of(token: str, settings_: Settings | None = None) -> Any:
    chosen = settings_ or settings()
    return verified(token, chosen, verification_key(chosen))


def forged_with(key: bytes) -> str:
    """Sign with what everybody knows, as if it were a secret: PyJWT itself would refuse to."""
    expires = int(datetime.now(UTC).timestamp()) + 60
    parts = [{"alg": "HS256", "typ": "JWT"}, claims(exp=expires)]
    signed = b".".join(unpadded(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + unpadded(hmac.digest(key, signed, hashlib.sha256))).decode()


def unpadded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def assert_challenge(response: httpx.Response, status: int, code: str, challenge: str) -> None:
    assert response.status_code == status
    assert response.headers["WWW-Authenticate"] == challenge
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == f"/problems/{code}"
