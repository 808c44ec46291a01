"""The issuer's keys: fresh, rotated, believed for a while without the issuer, and never mistaken."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as rsa_key
from jwt.algorithms import get_default_algorithms

from api.identity import jwks
from api.identity.jwks import Jwks, usable
from api.identity.signing import sign
from api.identity.tokens import KeysUnavailable, Member, Tokens, Unauthenticated
from innbox_process.health import Health
from runtime.settings import SettingsError
from tests.support.api_client import ME, some_settings
from tests.support.issuer import Issuer, claims, forged, pem_of
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.unit

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
ALL = frozenset({"RS256", "ES256", "EdDSA"})


class Verifier:
    """Those who check tokens, on a clock of their own: ten seconds' cooldown, an hour's trust."""

    def __init__(self, issuer: Issuer) -> None:
        settings = some_settings(
            NOWHERE, jwt_key="", jwks_url=issuer.url, jwks_cooldown_s=10, jwks_stale_s=3600
        )
        self.now = 0.0
        self.health = Health()
        self.keys = Jwks(settings, self.health, lambda: self.now)
        self.tokens = Tokens(self.keys, settings)

    async def member(self, token: bytes) -> Member:
        return await self.tokens.member(token)

    async def refuses(self, token: bytes) -> bool:
        try:
            await self.member(token)
        except Unauthenticated:
            return True
        return False


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setattr(jwks, "ANSWER_S_MAX", DEADLINE_S)
    issuer = Issuer()
    issuer.add("first", "ES256")
    with issuer.serving():
        yield issuer


@pytest.mark.parametrize("algorithm", sorted(ALL))
def test_a_token_is_believed_by_the_issuers_key(issuer: Issuer, algorithm: str) -> None:
    issuer.add("another", algorithm)

    assert told(lambda: Verifier(issuer).member(issuer.token("another"))).id == ME


def test_a_new_key_is_asked_for_at_once_and_the_old_one_is_still_believed(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        await verifier.member(issuer.token("first"))
        issuer.add("second", "EdDSA")
        verifier.now += 11

        assert (await verifier.member(issuer.token("second"))).id == ME
        assert (await verifier.member(issuer.token("first"))).id == ME
        assert issuer.asked == 2

    told(story)


def test_a_key_that_was_removed_is_not_believed_not_even_of_a_token_that_was(
    issuer: Issuer,
) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        issuer.add("second", "ES256")
        token = issuer.token("first")
        await verifier.member(token)
        del issuer.keys["first"]
        assert not await verifier.refuses(token)
        await verifier.keys.refresh()

        assert await verifier.refuses(token)
        assert not await verifier.refuses(issuer.token("second"))

    told(story)


def test_a_key_that_changes_under_its_name_is_another_key(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        token = issuer.token("first")
        await verifier.member(token)
        issuer.add("first", "ES256")
        await verifier.keys.refresh()

        assert await verifier.refuses(token)

    told(story)


def test_strangers_cannot_make_us_ask_more_than_once_in_a_while(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        strangers = [issuer.token("first", {"kid": f"stranger {n}"}) for n in range(50)]

        for asked in (1, 2):
            assert all(await asyncio.gather(*map(verifier.refuses, strangers)))
            assert all([await verifier.refuses(stranger) for stranger in strangers])
            assert issuer.asked == asked
            verifier.now += 9.9
            assert await verifier.refuses(strangers[0])
            assert issuer.asked == asked
            verifier.now += 0.1

    told(story)


def test_neither_does_an_issuer_that_fails_get_asked_more_often(issuer: Issuer) -> None:
    async def story() -> None:
        issuer.status = 500
        verifier = Verifier(issuer)
        for _ in range(20):
            with pytest.raises(KeysUnavailable):
                await verifier.member(issuer.token("first"))
        assert issuer.asked == 1

    told(story)


def test_a_known_key_never_waits_for_the_issuer(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        await verifier.keys.refresh()
        issuer.may_answer.clear()
        asking = asyncio.create_task(verifier.keys.refresh())
        await asyncio.to_thread(eventually, lambda: issuer.asked == 2)

        checking = verifier.member(issuer.token("first"))
        with pytest.raises(StopIteration):  # it has ended without waiting for anything
            checking.send(None)

        issuer.may_answer.set()
        await asking

    told(story)


def test_a_client_that_goes_away_leaves_the_asking_to_the_others(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        issuer.may_answer.clear()
        gone, waits = (
            asyncio.create_task(verifier.member(issuer.token("first"))) for _ in range(2)
        )
        await asyncio.to_thread(eventually, lambda: issuer.asked == 1)
        gone.cancel()
        await asyncio.wait([gone])
        issuer.may_answer.set()

        assert (await waits).id == ME
        assert issuer.asked == 1

    told(story)


@pytest.mark.parametrize("is_dripping", [False, True], ids=["silent", "dripping"])
def test_an_issuer_that_does_not_get_done_is_not_waited_for_long(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, *, is_dripping: bool
) -> None:
    monkeypatch.setattr(jwks, "ANSWER_S_MAX", 0.2)

    async def story() -> None:
        issuer.is_dripping = is_dripping
        if not is_dripping:
            issuer.may_answer.clear()
        with pytest.raises(KeysUnavailable):
            await asyncio.wait_for(Verifier(issuer).member(issuer.token("first")), 10)

    told(story)


def test_a_set_that_is_longer_than_any_set_is_not_read(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        await verifier.member(issuer.token("first"))
        issuer.add("second", "ES256")
        issuer.said_instead = issuer.document + b" " * jwks.DOCUMENT_BYTES_MAX
        verifier.now += 10

        assert await verifier.refuses(issuer.token("second"))
        assert issuer.asked == 2

    told(story)


def test_the_last_keys_are_believed_without_their_issuer_for_so_long(issuer: Issuer) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        await verifier.member(issuer.token("first"))
        issuer.status = 503
        verifier.now += 3599.9
        await verifier.keys.refresh()
        assert not await verifier.refuses(issuer.token("first", nonce=1))
        assert verifier.health.problems == {}

        verifier.now += 0.1
        await verifier.keys.refresh()
        for token in (issuer.token("first"), issuer.token("first", nonce=1)):
            with pytest.raises(KeysUnavailable):
                await verifier.member(token)
        problem = "cannot fetch the issuer's signing keys: it answered 503"
        assert verifier.health.problems == {"keys": problem}

        issuer.status = 200
        verifier.now += 10
        assert (await verifier.member(issuer.token("first"))).id == ME
        assert verifier.health.problems == {}

    told(story)


GARBAGE = {
    "nothing": b"",
    "a page": b"<html>we are sorry</html>",
    "a list": b"[]",
    "no list": b'{"keys": {}}',
    "no keys": b'{"keys": []}',
    "no key among them": b'{"keys": [1, null, {}, {"kty": "EC", "kid": "first"}, {"kty": ["EC"]}]}',
    "a key that is no point": json.dumps(
        {"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "x": "AA", "y": "AA"}]}
    ).encode(),
    "deep": b'{"keys":' + b"[" * 100_000,
}


@pytest.mark.parametrize("document", GARBAGE.values(), ids=GARBAGE)
def test_rubbish_does_not_take_the_place_of_keys(issuer: Issuer, document: bytes) -> None:
    async def story() -> None:
        verifier = Verifier(issuer)
        await verifier.member(issuer.token("first"))
        issuer.said_instead = document
        await verifier.keys.refresh()

        assert not await verifier.refuses(issuer.token("first", nonce=1))
        assert issuer.asked == 2

    told(story)


def test_the_issuer_cannot_send_us_elsewhere(issuer: Issuer) -> None:
    issuer.status = 302

    with pytest.raises(KeysUnavailable):
        told(lambda: Verifier(issuer).member(issuer.token("first")))
    assert issuer.asked == 1


def test_rubbish_beside_a_key_does_not_spoil_it(issuer: Issuer) -> None:
    keys = [1, {"kty": "EC", "kid": 7}, {"kty": "new", "kid": "n"}, issuer.jwk("first")]

    assert usable(json.dumps({"keys": keys}).encode(), ALL).keys() == {("first", "ES256")}


def test_a_key_may_leave_its_algorithm_to_its_type(issuer: Issuer) -> None:
    issuer.add("edwards", "EdDSA")
    issuer.add("rsa", "RS256")
    keys = [issuer.jwk(kid) for kid in issuer.keys]
    for key in keys:
        del key["alg"], key["use"]

    found = usable(json.dumps({"keys": keys}).encode(), ALL)
    assert found.keys() == {("first", "ES256"), ("edwards", "EdDSA"), ("rsa", "RS256")}


def test_keys_for_something_else_are_not_used(issuer: Issuer) -> None:
    good = issuer.jwk("first")
    algorithms = get_default_algorithms()
    short = algorithms["RS256"].to_jwk(rsa_key(65537, 1024).public_key(), as_dict=True)
    p384 = algorithms["ES384"].to_jwk(ec_key(SECP384R1()).public_key(), as_dict=True)
    private = algorithms["ES256"].to_jwk(issuer.keys["first"][1], as_dict=True)
    others = {
        "encryption": {**good, "use": "enc"},
        "operations": {**good, "key_ops": ["encrypt"]},
        "nameless": {name: value for name, value in good.items() if name != "kid"},
        "secret": {"kty": "oct", "k": "c2VjcmV0" * 8, "alg": "HS256", "kid": "s"},
        "private": {**private, "kid": "p", "alg": "ES256"},
        "short": {**short, "kid": "short"},
        "curve": {**p384, "kid": "curve", "alg": "ES256"},
        "not asked for": {**p384, "kid": "curve"},
        "mismatched": {**good, "alg": "RS256"},
        "unknown": {**good, "alg": "XX256"},
    }
    for name, key in others.items():
        with pytest.raises(ValueError, match="none of its keys"):
            pytest.fail(f"{name}: {usable(json.dumps({'keys': [key]}).encode(), ALL)}")
    with pytest.raises(ValueError, match="none of its keys"):
        usable(issuer.document, frozenset({"RS256"}))


def test_no_token_is_believed_by_another_algorithm_than_its_keys(issuer: Issuer) -> None:
    issuer.add("rsa", "RS256")
    issuer.add("second", "ES256")
    named = {"kid": "rsa"}
    (_, mine), (_, rsa) = issuer.keys["first"], issuer.keys["rsa"]
    jwk = json.dumps(issuer.jwk("rsa")).encode()
    attacks = {
        "the public key as a secret": forged(pem_of(rsa), **named),
        "and its JWK": forged(jwk, **named),
        "nothing at all": jwt.encode(claims(), "", "none", headers=named).encode(),
        "another key's algorithm": jwt.encode(claims(), mine, "ES256", headers=named).encode(),
        "a relative": jwt.encode(claims(), rsa, "PS256", headers=named).encode(),
        "a longer relative": jwt.encode(claims(), rsa, "RS512", headers=named).encode(),
        "another key of the same kind": issuer.token("first", {"kid": "second"}),
        "no name": jwt.encode(claims(), mine, "ES256").encode(),
        "a name that is none": forged(b"k" * 32, kid=["first"]),
    }

    async def story() -> None:
        verifier = Verifier(issuer)
        for attack in attacks.values():
            assert await verifier.refuses(attack), attack
        for kid in issuer.keys:
            assert not await verifier.refuses(issuer.token(kid))

    told(story)


def test_a_token_does_not_bring_its_key_along(issuer: Issuer) -> None:
    attacker = Issuer()
    attacker.add("mine", "ES256")
    with attacker.serving():
        brought = (
            {"jwk": attacker.jwk("mine")},
            {"jku": attacker.url},
            {"jku": attacker.url, "kid": "first"},
            {"x5u": attacker.url},
        )

        async def story() -> None:
            verifier = Verifier(issuer)
            for header in brought:
                assert await verifier.refuses(attacker.token("mine", header))

        told(story)
    assert attacker.asked == 0


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"typ": "secevent+jwt"},
        {"typ": 1},
    ],
    ids=str,
)
def test_what_we_do_not_understand_we_do_not_believe(
    issuer: Issuer, header: dict[str, Any]
) -> None:
    assert told(lambda: Verifier(issuer).refuses(issuer.token("first", header)))


@pytest.mark.parametrize("kind", ["JWT", "at+jwt", "application/at+jwt", "AT+JWT"])
def test_an_access_token_may_say_that_it_is_one(issuer: Issuer, kind: str) -> None:
    assert not told(lambda: Verifier(issuer).refuses(issuer.token("first", {"typ": kind})))


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("http://id.example/jwks", "production"),
        ("http://127.0.0.1.example/jwks", "production"),
        ("file:///etc/jwks", "development"),
        ("id.example", "development"),
        ("https://", "development"),
    ],
)
def test_an_address_that_anybody_may_answer_for_is_refused(url: str, environment: str) -> None:
    with pytest.raises(SettingsError, match="JWKS_URL"):
        Jwks(some_settings(NOWHERE, jwks_url=url, environment=environment), Health())


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("https://id.example/jwks", "production"),
        ("http://id.example/jwks", "development"),
        ("http://localhost:8080/jwks", "production"),
        ("http://127.0.0.1/jwks", "production"),
        ("http://[::1]/jwks", "production"),
    ],
)
def test_plain_http_will_do_for_development_and_within_a_machine(
    url: str, environment: str
) -> None:
    Jwks(some_settings(NOWHERE, jwks_url=url, environment=environment), Health())


def test_with_an_issuer_no_token_is_made_here() -> None:
    with pytest.raises(SettingsError, match="JWKS_URL"):
        sign(some_settings(NOWHERE, jwks_url="https://id.example/jwks"), ME)


def told(story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(story())
