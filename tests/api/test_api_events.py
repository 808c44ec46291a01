"""Event streams: every transition once and in order, resumed where they broke off, cheap while idle."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager

import httpx
import psutil
import pytest
from httpx_sse import EventSource, ServerSentEvent, connect_sse
from sqlalchemy import Engine, text

from api.identity.scopes import READ, WRITE
from api.identity.signing import sign
from api.problems import ProblemError
from api.reservations import listening
from api.reservations.deps import STREAMS, Streams
from api.reservations.events import placed
from domain.answers import Answer
from tests.support.api_client import (
    ANOTHER,
    ME,
    RESERVATIONS,
    Api,
    Wire,
    a_stay,
    an_api,
    an_api_process,
    assert_problem,
    some_settings,
    streams,
)
from tests.support.costs import note_reads, note_tasks_of_threads, sessions
from tests.support.notify_only_api import an_api_that_only_listens, listener, ring, settled
from tests.support.waiting import eventually

IDLE = 500
# Threads and connections of the API that nobody has needed before, each at most.
LATECOMERS = 10
# Shorter than the pause between heartbeats, or else these would keep a reader waiting in vain.
SILENCE_S = 10.0


def a_reservation(client: httpx.Client) -> int:
    return int(client.post(RESERVATIONS, json=a_stay()).raise_for_status().json()["id"])


def events_of(reservation_id: int) -> str:
    return f"{RESERVATIONS}/{reservation_id}/events"


@contextmanager
def followed(
    client: httpx.Client, reservation_id: int, last: int | None = None
) -> Iterator[Iterator[ServerSentEvent]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    path = events_of(reservation_id)
    with connect_sse(client, "GET", path, headers=headers, timeout=SILENCE_S) as source:
        yield source.iter_sse()


def brought(event: ServerSentEvent) -> tuple[str, str]:
    """The id and the status, once it is sure that the rest is as documented."""
    assert event.event == "transition"
    assert event.id == str(event.json()["version"])
    return event.id, event.json()["status"]


def test_a_stream_tells_the_past_and_then_what_happens(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is an item of the history, its id the version; the final one ends it."""
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        listener(engine)
        me = api.member(ME)
        id_ = a_reservation(me)
        with followed(me, id_) as events:
            seen = [next(events)]
            ring(engine, settled(engine, id_))
            seen.append(next(events))
            # Nobody but the API itself can have rung for this one.
            me.post(f"{RESERVATIONS}/{id_}/cancellation")
            seen.append(next(events))
            ring(engine, settled(engine, id_, Answer.CANCEL))
            seen += events
        history = me.get(f"{RESERVATIONS}/{id_}/history").json()["items"]

    assert [event.json() for event in seen] == history
    assert [brought(event) for event in seen] == [
        ("1", "PENDING"), ("2", "CONFIRMED"), ("3", "CANCELLING"), ("4", "CANCELLED"),
    ]  # fmt: skip
    assert seen[0].retry is not None


def test_a_stream_is_for_no_cache_and_passes_through_proxies(api: Api) -> None:
    me = api.member(ME)
    with me.stream("GET", events_of(a_reservation(me))) as response:
        headers = response.headers

    assert headers["Content-Type"].startswith("text/event-stream")
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-cache", "no")


def test_who_reconnects_goes_on_after_the_last_event_they_had(api: Api, engine: Engine) -> None:
    me = api.member(ME)
    id_ = a_reservation(me)
    settled(engine, id_)
    me.post(f"{RESERVATIONS}/{id_}/cancellation")
    settled(engine, id_, Answer.CANCEL)

    for last in (None, 0, 1, 2, 3):
        with followed(me, id_, last) as events:
            assert [event.id for event in events] == ["1", "2", "3", "4"][last or 0 :]


def test_who_has_had_the_final_event_is_told_not_to_come_again(api: Api, engine: Engine) -> None:
    """An EventSource stops at 204; at anything else it would try for ever."""
    me = api.member(ME)
    id_ = a_reservation(me)
    settled(engine, id_, Answer.FAILURE)

    over = me.get(events_of(id_), headers={"Last-Event-ID": "2"})
    assert (over.status_code, over.content) == (204, b"")


def test_an_id_that_no_event_can_have_had_is_refused(api: Api) -> None:
    me = api.member(ME)
    path = events_of(a_reservation(me))
    for last in ("2", "-1", "first", "", str(2**31)):
        response = me.get(path, headers={"Last-Event-ID": last})
        assert_problem(response, 422, "invalid-request")
        assert response.json()["errors"][0]["header"].lower() == "last-event-id"


def test_a_silent_stream_is_kept_alive_by_comments(database_url: str) -> None:
    with an_api(database_url, heartbeat_s=0.02) as api:
        me = api.member(ME)
        with me.stream("GET", events_of(a_reservation(me))) as response:
            lines = response.iter_lines()
            beats = [next(line for line in lines if line.startswith(":")) for _ in range(3)]

    assert len(beats) == 3


def test_a_stream_ends_with_the_token_it_was_opened_with(api: Api) -> None:
    id_ = a_reservation(api.member(ME))
    token = sign(api.settings, ME, [READ], lifetime_s=1.5)
    client = api.client({"Authorization": f"Bearer {token}"})
    with followed(client, id_) as events:  # for no longer than SILENCE_S
        seen = [brought(event) for event in events]

    assert seen == [("1", "PENDING")]


def test_a_stream_ends_at_once_when_the_process_stops(database_url: str) -> None:
    with an_api(database_url, shutdown_s=6 * SILENCE_S) as api:
        me = api.member(ME)
        with followed(me, a_reservation(me)) as events:
            next(events)
            api.stop.set()
            assert list(events) == []


def test_who_goes_away_leaves_nothing_behind(api: Api) -> None:
    me = api.member(ME)
    id_ = a_reservation(me)
    before = streams()
    for _ in range(5):
        with followed(me, id_) as events:
            next(events)
            assert streams() == before + 1
        eventually(lambda: streams() == before)


def test_a_change_made_through_another_process_is_heard(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        an_api_that_only_listens(database_url, monkeypatch) as here,
        an_api_that_only_listens(database_url, monkeypatch) as there,
    ):
        listener(engine, other_than=listener(engine))
        me = here.member(ME)
        id_ = a_reservation(me)
        with followed(me, id_) as events:
            next(events)
            there.member(ME).post(f"{RESERVATIONS}/{id_}/cancellation")
            assert brought(next(events)) == ("2", "CANCELLING")


def test_what_nobody_rang_for_is_found_by_the_poll(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "POLL_S", 0.05)
    with an_api(database_url) as api:
        me = api.member(ME)
        id_ = a_reservation(me)
        with followed(me, id_) as events:
            next(events)
            settled(engine, id_)
            assert brought(next(events)) == ("2", "CONFIRMED")


def test_a_stream_outlasts_a_database_that_is_away(database_url: str, engine: Engine) -> None:
    with closing(Wire(database_url)) as wire, an_api(wire.url, pool_timeout_s=0.5) as api:
        me = api.member(ME)
        id_ = a_reservation(me)
        with followed(me, id_) as events:
            next(events)
            wire.cut()
            eventually(lambda: me.get("/healthz/ready").status_code == 503)
            settled(engine, id_)
            wire.mend()
            assert brought(next(events)) == ("2", "CONFIRMED")


def test_streams_that_are_woken_together_share_a_read_and_take_no_thread(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, tasks = note_reads(monkeypatch), note_tasks_of_threads(monkeypatch)
    with an_api_that_only_listens(database_url, monkeypatch) as api, ExitStack() as opened:
        listener(engine)
        me = api.member(ME)
        ids = [a_reservation(me) for _ in range(5)]
        opened.enter_context(followed(me, ids[0]))  # opens the connection
        tasks.clear()
        sources = [opened.enter_context(followed(me, id_)) for id_ in ids]
        for events in sources:
            next(events)
        reads.clear()
        ring(engine, *[settled(engine, id_) for id_ in ids])
        assert {brought(next(events)) for events in sources} == {("2", "CONFIRMED")}

    assert reads == [set(ids)]
    assert tasks == []


def test_no_more_streams_are_opened_than_are_allowed(database_url: str) -> None:
    with an_api(database_url, streams_max=1) as api:
        me = api.member(ME)
        id_ = a_reservation(me)
        with followed(me, id_) as events:
            next(events)
            refused = me.get(events_of(id_), timeout=SILENCE_S)
        eventually(lambda: streams() == 0)
        with followed(me, id_) as events:
            next(events)

    assert_problem(refused, 503, "too-many-streams")
    assert refused.headers["Retry-After"] == "1"


def test_one_member_does_not_take_all_streams(database_url: str) -> None:
    with an_api(database_url, streams_per_member_max=1) as api:
        me, another = api.member(ME), api.member(ANOTHER)
        mine, theirs = a_reservation(me), a_reservation(another)
        with followed(me, mine) as events:
            next(events)
            refused = me.get(events_of(mine), timeout=SILENCE_S)
            with followed(another, theirs) as others:
                next(others)
        eventually(lambda: streams() == 0)
        with followed(me, mine) as events:
            next(events)

    assert_problem(refused, 503, "too-many-streams")


@pytest.mark.unit
def test_a_stream_that_was_never_begun_keeps_no_place() -> None:
    """Its place is taken before the answer begins, and a client may be gone by then."""
    streams = Streams(1, 1)
    slot = streams.take(ME)
    with pytest.raises(ProblemError):
        streams.take(ME)
    never_begun = placed(nothing_to_say(slot), slot)
    del never_begun
    with streams.take(ME), pytest.raises(ProblemError):
        streams.take(ANOTHER)
    streams.take(ANOTHER).close()


async def nothing_to_say(slot: ExitStack) -> AsyncIterator[bytes]:
    with slot:
        yield b""


def test_what_cannot_be_read_ends_the_stream_and_is_logged(
    database_url: str, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unlike a database that is away, it would not be over by itself."""
    with an_api(database_url) as api:
        me = api.member(ME)
        id_ = a_reservation(me)
        with followed(me, id_) as events:
            next(events)
            with engine.begin() as connection:
                connection.execute(text("ALTER TABLE reservations.transition RENAME TO elsewhere"))
            ring(engine, settled_without_a_trace(engine, id_))
            assert list(events) == []

    assert "event stream failed" in capsys.readouterr().out


def settled_without_a_trace(engine: Engine, reservation_id: int) -> int:
    with engine.begin() as connection:
        connection.execute(text("UPDATE reservations.reservation SET version = version + 1"))
    return reservation_id


def test_five_hundred_idle_streams_hold_neither_a_thread_nor_a_connection(
    database_url: str, engine: Engine
) -> None:
    """Others are served meanwhile, and each stream is told when something happens.

    The API is a process of its own: with its callers in one, it would have half of the files that an
    ordinary process may open, which are often 1,024.
    """
    with an_api_process(
        database_url,
        POOL_SIZE="2",
        REQUESTS_BURST_MAX="10000",
        STREAMS_PER_MEMBER_MAX=str(IDLE),
    ) as (process, url):
        token = sign(some_settings(database_url), ME, [READ, WRITE])
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=SILENCE_S) as me:
            ids = [a_reservation(me) for _ in range(20)]
        asyncio.run(_five_hundred(psutil.Process(process.pid), url, headers, engine, ids))


async def _five_hundred(
    process: psutil.Process, url: str, headers: dict[str, str], engine: Engine, ids: list[int]
) -> None:
    no_limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=url, headers=headers, timeout=SILENCE_S, limits=no_limits
        ) as client,
        AsyncExitStack() as opened,
    ):
        await asyncio.gather(*(client.get(f"{RESERVATIONS}/{id_}") for id_ in ids))
        threads, connections = process.num_threads(), sessions(engine)
        sources = []
        for number in range(IDLE):
            request = client.stream("GET", events_of(ids[number % len(ids)]))
            events = EventSource(await opened.enter_async_context(request)).aiter_sse()
            assert brought(await anext(events)) == ("1", "PENDING")
            sources.append(events)

        assert await _open_streams(client) == IDLE
        assert process.num_threads() <= threads + LATECOMERS
        assert sessions(engine) <= connections + LATECOMERS
        for id_ in ids:
            assert (await client.get(f"{RESERVATIONS}/{id_}")).status_code == 200

        for id_ in ids:
            settled(engine, id_)
        ring(engine, *ids)
        told = await asyncio.gather(*(anext(events) for events in sources))
        assert {brought(event) for event in told} == {("2", "CONFIRMED")}


async def _open_streams(client: httpx.AsyncClient) -> float:
    metrics = (await client.get("/metrics")).text
    (sample,) = re.findall(rf"^{STREAMS._name} (.*)$", metrics, re.MULTILINE)
    return float(sample)
