"""HTTP over raw sockets: how much is read, from whom, for how long, and whose answer it becomes."""

import json
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest
from sqlalchemy import Engine, text

from api.identity.signing import sign
from api.serving import protocol
from api.serving.protocol import BoundedProtocol
from tests.support.api_client import ME, Api, a_stay, an_api, streams
from tests.support.waiting import DEADLINE_S, eventually

LIVE = b"GET /healthz/live HTTP/1.1\r\nHost: inn\r\n"
KIB = 1_024


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
        (b"a: b\r\n" * (protocol.HEADERS_MAX - 2), b"200"),
        (b"a: b\r\n" * protocol.HEADERS_MAX, b"431"),
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
        monkeypatch.setattr(protocol, "HEAD_S_MAX", 0.2)
        connection.sendall(begun)
        assert heard(connection) == b""
    with connected(api) as connection:
        connection.sendall(begun)
        assert heard(connection) == b""


def test_what_takes_longer_than_a_head_may_is_answered(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is on the head: neither on what is waited for nor on a body."""
    monkeypatch.setattr(protocol, "HEAD_S_MAX", 0.2)
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
    monkeypatch.setattr(protocol, "PAUSE_S_MAX", 0.2)
    with connected(api) as connection:
        connection.sendall(a_head(api, "reservations", "write", long(b"-" * 100)) + begun)
        assert status(heard(connection)) == b"408"


def test_a_body_that_we_are_too_slow_for_is_not_held_against_the_caller(
    api: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load is held up by somebody else, and then goes on."""
    looks: list[bool] = []
    look = BoundedProtocol._miss_body

    def miss(reader: BoundedProtocol) -> None:
        looks.append(reader.flow.read_paused)
        look(reader)

    monkeypatch.setattr(protocol, "PAUSE_S_MAX", 0.2)
    monkeypatch.setattr(BoundedProtocol, "_miss_body", miss)
    night = b'{"roomId":7,"from":"2028-01-01","to":"2028-01-02","capacity":2}\n'
    with ThreadPoolExecutor(1) as threads, connected(api) as connection:
        with engine.begin() as other:
            other.execute(text("LOCK TABLE rooms.room_night IN ACCESS EXCLUSIVE MODE"))
            head = a_head(api, "inventory", "inventory", long(20_000 * night))
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


def test_a_pipelined_body_is_waited_for_no_longer_than_any_other(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when it is its turn: the answer before it takes longer than a pause may."""
    monkeypatch.setattr(protocol, "PAUSE_S_MAX", 0.2)
    body = json.dumps(a_stay()).encode()
    waits = a_head(api, "reservations", "write", b"Prefer: wait=1\r\n" + long(body), last=False)
    half = a_head(api, "reservations", "write", long(body)) + body[:10]
    with connected(api) as connection:
        connection.sendall(waits + body + half)
        assert statuses(heard(connection)) == [b"202", b"408"]


def test_a_pipelined_body_that_does_not_come_is_not_told_so_in_the_midst_of_a_stream(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its client is missed when it goes, although another request of theirs came last."""
    monkeypatch.setattr(protocol, "PAUSE_S_MAX", 0.05)
    half = b"POST /v1/reservations HTTP/1.1\r\nHost: inn\r\nContent-Length: 100\r\n\r\n{"
    before = streams()
    with an_api(database_url, heartbeat_s=0.1) as api:
        location = api.member(ME).post("/v1/reservations", json=a_stay()).headers["Location"]
        token = sign(api.settings, ME, ["read"]).encode()
        follow = b"GET %b/events HTTP/1.1\r\nHost: inn\r\nAuthorization: Bearer %b\r\n\r\n"
        with connected(api) as connection:
            connection.sendall(follow % (location.encode(), token) + half)
            told = b""
            while told.count(b"still here") < 3:
                part = connection.recv(65_536)
                assert part, "the stream was cut off"
                told += part
            assert streams() == before + 1
        eventually(lambda: streams() == before)
    assert statuses(told) == [b"200"]


def test_who_offers_another_protocol_is_answered_in_this_one(api: Api) -> None:
    """As Java's client does, whose body is not a request, however its parts come."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    reserve = json.dumps(a_stay()).encode()
    chunked = b"Transfer-Encoding: chunked\r\n"
    in_chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(reserve), reserve)
    smuggled = LIVE + b"\r\n"
    requests = [
        (offer + long(reserve), reserve, b"202"),
        (offer + chunked, in_chunks, b"202"),
        (offer + long(smuggled), smuggled, b"400"),
        (offer + long(b""), b"", b"422"),
    ]
    whole = [
        a_head(api, "reservations", "write", framing, last=False) + body
        for framing, body, _ in requests
    ]
    last = LIVE + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n"
    expected = [status for *_, status in requests] + [b"200"]

    with connected(api) as connection:
        connection.sendall(b"".join(whole) + last)
        assert statuses(heard(connection)) == expected
    for size in (1, 7):
        with connected(api) as connection:
            everything = b"".join(whole) + last
            for at in range(0, len(everything), size):
                connection.sendall(everything[at : at + size])
            assert statuses(heard(connection)) == expected


def a_head(api: Api, resource: str, scope: str, more: bytes, *, last: bool = True) -> bytes:
    """The head of a POST; `more` says, among other things, how its body is delimited."""
    kind = b"application/x-ndjson" if resource == "inventory" else b"application/json"
    token = sign(api.settings, ME, [scope]).encode()
    return (
        b"POST /v1/%b HTTP/1.1\r\nHost: inn\r\nContent-Type: %b\r\nAuthorization: Bearer %b\r\n"
        % (resource.encode(), kind, token)
        + (b"Connection: close\r\n" if last else b"")
        + more
        + b"\r\n"
    )


def long(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def statuses(answers: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)
