"""What protects browsers, names and addresses: headers, allowed hosts, trusted proxies."""

import asyncio
import socket
from threading import Event
from typing import Any

import httpx
import pytest
from litestar.types import Receive, Scope, Send

from api.identity.signing import sign
from api.serving.process import Server
from runtime.settings import SettingsError, load_settings
from tests.support.api_client import ME, Api, an_api, some_settings
from tests.support.waiting import eventually

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"

PROTECTION = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HTTPS_ONLY = "Strict-Transport-Security"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/reservations", 200),
        ("GET", "/v1/reservations/1", 404),
        ("POST", "/v1/reservations", 422),
        ("GET", "/v1/operations", 403),
        ("PATCH", "/v1/reservations", 405),
        ("OPTIONS", "/v1/reservations", 204),
        ("GET", "/nowhere", 404),
        ("GET", "/healthz/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/schema", 200),
        ("GET", "/problems", 200),
    ],
)
def test_every_response_is_protected(api: Api, method: str, path: str, status: int) -> None:
    response = api.member().request(method, path)

    assert response.status_code == status
    assert {name: response.headers.get(name) for name in PROTECTION} == PROTECTION
    assert response.headers["Cache-Control"]
    assert HTTPS_ONLY not in response.headers


def test_what_is_somebodys_is_kept_by_no_cache(api: Api) -> None:
    for path in ("/v1/reservations", "/v1/reservations/1"):
        assert api.member().get(path).headers["Cache-Control"] == "no-store"


def test_over_https_in_production_nobody_comes_back_without_it(database_url: str) -> None:
    """Which the API learns from a proxy that it was told to trust, and from nobody else."""
    production = {"environment": "production"}
    for changes, is_believed in (
        ({**production, "trusted_proxies": ("127.0.0.0/8",)}, True),
        ({**production, "trusted_proxies": ("10.0.0.0/8",)}, False),
        (production, False),
        ({"trusted_proxies": ("127.0.0.0/8",)}, False),
    ):
        with an_api(database_url, **changes) as api:
            for proto, is_https in (("https", True), ("http", False), ("rubbish", False)):
                response = api.client({"X-Forwarded-Proto": proto}).get("/nowhere")
                assert (HTTPS_ONLY in response.headers) == (is_believed and is_https)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("trusted", "expected"),
    [
        ("", "127.0.0.1"),
        ("10.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1", "10.1.2.3"),
        ("127.0.0.1, 10.0.0.0/8", "198.51.100.7"),
    ],
)
def test_the_clients_address_is_believed_of_trusted_proxies_alone(
    trusted: str, expected: str
) -> None:
    """Of a chain up to the first one that is not trusted: before it anybody may have said anything."""
    seen: list[Any] = []

    async def application(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["client"])

    config = Server(some_settings(NOWHERE, trusted_proxies=trusted), Event()).config
    config.app = application
    config.load()
    said = (b"x-forwarded-for", b"203.0.113.9, 198.51.100.7, 10.1.2.3")
    scope: Any = {"type": "http", "client": ("127.0.0.1", 50_000), "headers": [said]}
    call: Any = config.loaded_app
    asyncio.run(call(scope, None, None))

    assert [client[0] for client in seen] == [expected]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("inn.example", 200),
        ("INN.example:8000", 200),
        ("inn.example.", 200),
        ("a.b.example", 200),
        ("[::1]:8000", 200),
        ("b.example", 400),
        ("xb.example", 400),
        ("inn.example.evil.example", 400),
        ("evil.example", 400),
        ("inn.example@evil.example", 400),
        ("", 400),
    ],
)
def test_only_who_calls_us_by_our_name_is_answered(
    database_url: str, host: str, status: int
) -> None:
    with an_api(database_url, allowed_hosts=("Inn.example", "*.b.example", "[::1]")) as api:
        response = api.member().get("/v1/reservations", headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            assert response.json()["type"] == "/problems/bad-request"
            assert response.headers["Content-Type"] == "application/problem+json"
            assert "traceparent" in response.headers


def test_the_platform_may_call_us_by_our_address(database_url: str) -> None:
    with an_api(database_url, allowed_hosts=("inn.example",)) as api:
        for path, status in (("/healthz/live", 200), ("/metrics", 200), ("/schema", 400)):
            assert api.client({}).get(path).status_code == status


def test_of_two_names_none_is_believed(database_url: str) -> None:
    with an_api(database_url, allowed_hosts=("inn.example",)) as api:
        for names, status in ((["inn.example"], b"404"), (["inn.example", "evil.example"], b"400")):
            assert raw(api, names).split()[1] == status


def test_who_goes_away_within_a_body_is_no_error_of_ours(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    token = sign(api.settings, ME, ["write"])
    lines = [
        "POST /v1/reservations HTTP/1.1",
        "Host: inn",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        "Content-Length: 100",
    ]
    counted = (
        'innbox_http_request_seconds_count{method="POST",route="/v1/reservations",status="400"}'
    )
    before = metric(api, counted)
    host, _, port = api.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join([*lines, "", "{"]).encode())

    eventually(lambda: metric(api, counted) == before + 1)
    assert "unexpected" not in caplog.text


def metric(api: Api, name: str) -> float:
    lines = httpx.get(f"{api.url}/metrics", timeout=30).text.splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith(name)]
    return float(found[0]) if found else 0.0


@pytest.mark.unit
@pytest.mark.parametrize("proxies", ["proxy.example", "10.0.0.1/8", "*", "10.0.0.0/8,,x"])
def test_a_proxy_that_is_no_address_is_a_mistake(proxies: str) -> None:
    """Names would never be found, and the mistake never be noticed."""
    servers = {"database_url": NOWHERE, "kafka_bootstrap_servers": "127.0.0.1:1"}
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
        load_settings(**servers, trusted_proxies=proxies)


def raw(api: Api, names: list[str]) -> bytes:
    """Ask with so many Host headers, which no client library would send."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    lines = ["GET /nowhere HTTP/1.1", *(f"Host: {name}" for name in names), "Connection: close"]
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(65_536)
