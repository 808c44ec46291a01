"""Heads of requests over raw sockets: how much of one is read, from whom, and for how long."""

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest
from sqlalchemy import Engine, text

from api.identity.auth import sign
from api.serving import heads
from api.serving.heads import BoundedHeads
from tests.api_client import ME, Api, a_stay, an_api
from tests.waiting import DEADLINE_S, eventually

LIVE = b"GET /healthz/live HTTP/1.1\r\nHost: inn\r\n"
KIB = 1_024


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with an_api(database_url) as api:
        yield api


@contextmanager
def connected(api: Api) -> Iterator[socket.socket]:
    host, _, port = api.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        yield connection


def sent(connection: socket.socket, parts: Iterable[bytes]) -> int:
    """Write until the other side has had enough; returns how many bytes it let us write."""
    written = 0
    with suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
            written += len(part)
    return written


def heard(connection: socket.socket) -> bytes:
    """All until the other side closes, which it must."""
    found = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            found += part
    return found


def status(answer: bytes) -> bytes:
    return answer.split()[1]


@pytest.mark.parametrize(
    "part",
    [b"a" * KIB, b"a: b\r\n" * 200, b"\r\n" * KIB],
    ids=["one long header", "many headers", "empty lines"],
)
def test_a_head_without_an_end_is_not_read_for_ever(api: Api, part: bytes) -> None:
    """What has been written by then is what sockets hold between the two sides, and no more."""
    begin = b"" if part.startswith(b"\r") else LIVE
    with connected(api) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        assert sent(connection, [begin, *(part for _ in range(100 * KIB))]) < 20 * KIB * KIB


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"A: " + b"a" * 60 * KIB + b"\r\n", b"200"),
        (b"A: " + b"a" * 66 * KIB + b"\r\n", b"431"),
        (b"a: b\r\n" * (heads.HEADERS_MAX - 2), b"200"),
        (b"a: b\r\n" * heads.HEADERS_MAX, b"431"),
    ],
    ids=["long", "too long", "many", "too many"],
)
def test_a_head_that_is_too_large_is_told_so(api: Api, header: bytes, expected: bytes) -> None:
    with connected(api) as connection:
        connection.sendall(LIVE + header + b"Connection: close\r\n\r\n")
        assert status(heard(connection)) == expected


def test_a_head_in_many_pieces_is_counted_whole(api: Api) -> None:
    with connected(api) as connection:
        assert sent(connection, [LIVE, *(b"a: " + b"b" * KIB + b"\r\n" for _ in range(60))])
        connection.sendall(b"Connection: close\r\n\r\n")
        assert status(heard(connection)) == b"200"


@pytest.mark.parametrize("begun", [b"", b"\r\n", LIVE], ids=["nothing", "a line", "half a head"])
def test_a_head_that_does_not_end_in_time_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """Where an earlier request was answered, and on a new connection."""
    with connected(api) as connection:
        connection.sendall(LIVE + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
        assert status(answer) == b"200"
        monkeypatch.setattr(heads, "HEAD_S_MAX", 0.2)
        connection.sendall(begun)
        assert heard(connection) == b""
    with connected(api) as connection:
        connection.sendall(begun)
        assert heard(connection) == b""


def test_what_takes_longer_than_a_head_may_is_answered(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is on the head: neither on what is waited for nor on a body."""
    monkeypatch.setattr(heads, "HEAD_S_MAX", 0.2)
    me = api.member(ME)

    def waited() -> int:
        """The status; none if this side was too slow, and its own head not there in time."""
        with suppress(httpx.TransportError):
            wait = {"Prefer": "wait=1"}
            return me.post("/v1/reservations", json=a_stay(), headers=wait).status_code
        return 0

    assert eventually(waited) == 202


@pytest.mark.parametrize("begun", [b"", b'{"roomId":7'], ids=["nothing", "half a body"])
def test_a_body_of_which_nothing_comes_is_told_so(
    api: Api, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(heads, "PAUSE_S_MAX", 0.2)
    with connected(api) as connection:
        connection.sendall(a_head(api, "reservations", "write", b"Content-Length: 100\r\n") + begun)
        assert status(heard(connection)) == b"408"


def test_a_body_that_we_are_too_slow_for_is_not_held_against_the_caller(
    api: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load is held up by somebody else, and then goes on."""
    looks: list[bool] = []
    look = BoundedHeads._miss_body

    def miss(protocol: BoundedHeads) -> None:
        looks.append(protocol.flow.read_paused)
        look(protocol)

    monkeypatch.setattr(heads, "PAUSE_S_MAX", 0.2)
    monkeypatch.setattr(BoundedHeads, "_miss_body", miss)
    night = b'{"roomId":7,"from":"2028-01-01","to":"2028-01-02","capacity":2}\n'
    length = b"Content-Length: %d\r\n" % (20_000 * len(night))
    with ThreadPoolExecutor(1) as threads, connected(api) as connection:
        with engine.begin() as other:
            other.execute(text("LOCK TABLE rooms.room_night IN ACCESS EXCLUSIVE MODE"))
            head = a_head(api, "inventory", "inventory", length)
            sending = threads.submit(connection.sendall, head + 20_000 * night)
            eventually(lambda: len(looks) > 1)
        sending.result()
        assert status(heard(connection)) == b"200"
    assert all(looks)


def test_a_body_may_be_larger_than_a_head(api: Api) -> None:
    """In chunks as well, whose sizes stand between them; but not what follows the last one."""
    head = a_head(api, "inventory", "inventory", b"Transfer-Encoding: chunked\r\n")
    chunks = [b"1\r\n\n\r\n" * 100 for _ in range(300)]
    with connected(api) as connection:
        sent(connection, [head, *chunks, b"0\r\n\r\n"])
        assert status(heard(connection)) == b"200"

    trailers = (b"a: " + b"b" * KIB + b"\r\n" for _ in range(100 * KIB))
    with connected(api) as connection:
        assert sent(connection, [head, *chunks, b"0\r\n", *trailers]) < 20 * KIB * KIB


def a_head(api: Api, resource: str, scope: str, body: bytes) -> bytes:
    """The head of a POST; `body` says how its body is delimited."""
    kind = b"application/x-ndjson" if resource == "inventory" else b"application/json"
    return (
        b"POST /v1/%b HTTP/1.1\r\nHost: inn\r\nContent-Type: %b\r\nConnection: close\r\n"
        b"Authorization: Bearer %b\r\n%b\r\n"
    ) % (resource.encode(), kind, sign(api.settings, ME, [scope]).encode(), body)
