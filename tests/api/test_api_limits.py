"""Nobody can take more than their share, and nothing more than there is: requests, open files."""

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.identity.rate_limit import RateLimiter, TooManyRequests
from api.identity.scopes import STAFF
from api.identity.signing import sign
from api.serving import process
from api.serving.connections import Connections
from runtime.settings import SettingsError
from tests.support.api_client import ANOTHER, ME, Api, an_api, an_api_process, some_settings


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    # One in a thousand seconds: none comes back while the test runs.
    with an_api(database_url, requests_per_s_max=0.001, requests_burst_max=3) as api:
        yield api


def test_who_asks_too_fast_is_told_to_wait_and_nobody_else_is(api: Api) -> None:
    statuses = [api.member().get("/v1/reservations").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]

    refused = api.member().get("/v1/reservations")
    assert refused.json()["type"] == "/problems/too-many-requests"
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert 900 <= int(refused.headers["Retry-After"]) <= 1000
    assert api.member(ANOTHER).get("/v1/reservations").status_code == 200


def test_it_is_the_member_that_counts_whatever_the_token_may_and_the_request_asks(
    api: Api,
) -> None:
    for scopes in ((), (STAFF,), ("housekeeping",)):
        api.member(ME, *scopes).get("/v1/rooms")

    assert api.member(ME, STAFF).get("/v1/reservations/1").status_code == 429
    assert api.member(ME).post("/v1/reservations", content=b"{").status_code == 429


def test_who_is_not_known_uses_up_nobodys_share(api: Api) -> None:
    expired = {"Authorization": f"Bearer {sign(api.settings, ME, lifetime_s=-60)}"}
    for _ in range(5):
        response = api.client(expired).get("/v1/reservations")
        assert response.status_code == 401

    assert api.member().get("/v1/reservations").status_code == 200


def test_the_platform_is_never_told_to_wait(api: Api) -> None:
    for _ in range(5):
        assert api.client({}).get("/healthz/live").status_code == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.unit
def test_after_a_pause_so_many_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    limiter = RateLimiter(2, 4, clock=clock)

    assert [admitted(limiter) for _ in range(6)] == [True] * 4 + [False] * 2
    clock.now += 0.5
    assert [admitted(limiter) for _ in range(2)] == [True, False]
    clock.now += 100
    assert [admitted(limiter) for _ in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.unit
def test_who_waits_as_long_as_told_is_admitted() -> None:
    clock = Clock()
    limiter = RateLimiter(4, 2, clock=clock)
    limiter.acquire(ME)
    limiter.acquire(ME)
    with pytest.raises(TooManyRequests) as refused:
        limiter.acquire(ME)
    assert refused.value.wait_s == 0.25

    clock.now += 0.25
    assert admitted(limiter)


@pytest.mark.unit
def test_the_members_that_were_not_seen_for_longest_are_forgotten_first() -> None:
    limiter = RateLimiter(1, 2, members_max=2, clock=Clock())

    assert [admitted(limiter, member) for member in (1, 2, 1, 3, 1)] == [True] * 4 + [False]
    assert [admitted(limiter, 2) for _ in range(3)] == [True, True, False]


@pytest.mark.unit
@given(
    rate=st.sampled_from([0.5, 1, 2, 8, 64]),
    burst=st.integers(1, 20),
    gaps=st.lists(st.sampled_from([0, 0, 0, 1 / 64, 0.25, 1, 5]), max_size=60),
)
def test_in_no_span_of_time_more_than_the_burst_and_the_rate(
    rate: float, burst: int, gaps: list[float]
) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock=clock)
    came_at = []
    for gap in gaps:
        clock.now += gap
        if admitted(limiter):
            came_at.append(clock.now)

    for first, begun_at in enumerate(came_at):
        for count, ended_at in enumerate(came_at[first:], start=1):
            assert count <= burst + rate * (ended_at - begun_at)


def admitted(limiter: RateLimiter, member: int = ME) -> bool:
    try:
        limiter.acquire(member)
    except TooManyRequests:
        return False
    return True


@pytest.mark.unit
def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    program = "from api.serving.process import raise_open_files; print(raise_open_files())"
    low = f"ulimit -S -n 256; exec {sys.executable} -c '{program}'"
    raised = int(subprocess.check_output(["sh", "-c", low]))
    assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("open_files_max", "connections_max", "streams_max"),
    [(1_048_576, 10_000, 2_000), (20_000, 10_000, 2_000), (1_024, 794, 694), (232, 101, 1)],
)
def test_no_more_connections_and_streams_are_opened_than_there_are_files_for(
    open_files_max: int, connections_max: int, streams_max: int
) -> None:
    """So that requests, probes and the database have theirs."""
    settings = some_settings("postgresql+psycopg://nobody", streams_max=2_000, pool_size=10)
    assert process._connections_max(settings, open_files_max) == connections_max
    assert process._bounded(settings, connections_max).streams_max == streams_max


@pytest.mark.unit
def test_too_few_open_files_are_refused_with_the_way_out() -> None:
    settings = some_settings("postgresql+psycopg://nobody", pool_size=10)
    with pytest.raises(SettingsError, match=r"the limit is 64.*needs 232.*ulimit -n"):
        process._connections_max(settings, 64)


class Client:
    """A connection, as far as its bound knows it."""

    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


@pytest.mark.unit
def test_beyond_the_bound_the_longest_unfinished_head_goes_then_the_longest_idle() -> None:
    connections = Connections(3)
    idle, first, second, newest = (Client() for _ in range(4))
    for client in (idle, first, second):
        connections.opened(client)
        connections.awaits_head(client)
    connections.works(idle)
    connections.idles(idle)
    for client, victim in ((newest, first), (Client(), second), (Client(), newest)):
        connections.opened(client)
        connections.awaits_head(client)
        assert victim.is_aborted
        assert not client.is_aborted
    assert not idle.is_aborted


@pytest.mark.unit
def test_connections_at_work_are_never_closed_for_a_new_one() -> None:
    connections = Connections(2)
    working = [Client(), Client()]
    for client in working:
        connections.opened(client)
        connections.works(client)
    refused = Client()
    connections.opened(refused)
    assert refused.is_aborted
    assert not any(client.is_aborted for client in working)
    connections.closed(working[0])
    served = Client()
    connections.opened(served)
    assert not served.is_aborted


def test_half_sent_heads_leave_files_for_requests_and_health(database_url: str) -> None:
    """Beyond the bound the oldest of them are closed, and that is logged once.

    With a limit that leaves the test, which opens as many, within an ordinary one of 1,024.
    """
    with an_api_process(database_url, open_files_max=400) as (process, url):
        api = httpx.URL(url)
        member = {"Authorization": f"Bearer {sign(some_settings(database_url), ME)}"}
        with ExitStack() as opened:
            for number in range(400):
                half = opened.enter_context(socket.create_connection((api.host, api.port or 0)))
                half.sendall(b"GET /v1/reservations HTTP/1.1\r\nHost: a\r\n")
                if number % 100 == 99:
                    assert httpx.get(f"{url}/healthz/live").status_code == 200
                    listed = httpx.get(f"{url}/v1/reservations", headers=member)
                    assert listed.status_code == 200
        process.terminate()
        assert process.stderr is not None
        events = [json.loads(line)["event"] for line in process.stderr]
    assert events.count("connection limit reached") == 1
