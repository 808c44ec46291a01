"""The Python client against the real API, over wires that break; and its patience, step by step."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from threading import Thread
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Engine

import innbox_client
from api.identity.scopes import INVENTORY, READ, STAFF, WRITE
from api.identity.signing import sign
from innbox_client import Format, Innbox, Loaded, Problem, Transition, Unavailable
from innbox_client import loading as parts
from runtime.settings import Settings
from tests.support.api_client import ANOTHER, ME, Api, Wire, an_api, count, today
from tests.support.waiting import eventually
from tests.support.whole_saga import everything

CHECK_IN = today() + timedelta(days=30)
CHECK_OUT = CHECK_IN + timedelta(days=3)
RESERVATIONS = "reservations.reservation"


@pytest.fixture
def wire(api: Api) -> Iterator[Wire]:
    wire = Wire(api.url)
    yield wire
    wire.close()


@pytest.fixture
def saga(settings: Settings) -> Iterator[Api]:
    """An API with rooms that answer."""
    with everything(settings), an_api(settings.database_url) as api:
        yield api


class Clock:
    """Goes on when it is told to; pauses take no time on it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("innbox_client.sending.time", clock)
    return clock


def me(api: Api, *scopes: str, url: str | None = None, **options: Any) -> Innbox:
    token = sign(api.settings, ME, scopes or (READ, WRITE, INVENTORY))
    return Innbox(url or api.url, token, **options)


def test_a_lost_answer_is_asked_for_again_and_doubles_nothing(
    api: Api, wire: Wire, engine: Engine
) -> None:
    heard: list[Exception] = []
    with me(api, url=wire.url, on_repeat=heard.append) as innbox:
        wire.cut_after(b'"roomId"')
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT)
        assert isinstance(heard[0], httpx.TransportError)
        assert count(engine, RESERVATIONS) == 1
        assert innbox.get(made.id) == made


def test_who_runs_out_of_patience_is_told_the_key_that_settles_it(
    api: Api, wire: Wire, engine: Engine
) -> None:
    with me(api, url=wire.url, patience_s=0) as innbox:
        wire.cut_after(b'"roomId"')
        with pytest.raises(Unavailable) as unknown:
            innbox.reserve(7, CHECK_IN, CHECK_OUT)
        assert unknown.value.key
        eventually(lambda: count(engine, RESERVATIONS) == 1)
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT, key=unknown.value.key)
    assert count(engine, RESERVATIONS) == 1
    assert made.status == "PENDING"


def test_a_database_that_is_away_for_a_moment_is_not_noticed(database_url: str) -> None:
    database = Wire(database_url)
    with an_api(database.url) as api:

        def mend(_: Exception) -> None:
            if not mended:
                mended.append(True)
                database.mend()

        mended: list[bool] = []
        with me(api, on_repeat=mend) as innbox:
            database.cut()
            made = innbox.reserve(7, CHECK_IN, CHECK_OUT)
            assert mended
            assert innbox.get(made.id).id == made.id
    database.close()


def test_too_many_requests_are_repeated_when_the_api_says_so(database_url: str) -> None:
    """A second's worth of requests beyond the first takes that long, and all are answered."""
    heard: list[Exception] = []
    with (
        an_api(database_url, requests_per_s_max=1, requests_burst_max=1) as api,
        me(api, on_repeat=heard.append) as innbox,
    ):
        began_at = time.monotonic()
        # The second, unless it comes so late that it is within the rate.
        eventually(lambda: list(innbox.rooms()) == [] and heard)
        assert time.monotonic() - began_at > 0.9
    assert [problem.code for problem in heard if isinstance(problem, Problem)] == [
        "TOO_MANY_REQUESTS"
    ]


def test_a_refusal_says_what_is_wrong_where_and_how_to_find_it(api: Api) -> None:
    with me(api) as innbox, pytest.raises(Problem) as refused:
        innbox.reserve(7, CHECK_OUT, CHECK_IN)
    problem = refused.value
    assert (problem.status, problem.code) == (422, "INVALID_STAY")
    assert problem.type == "/problems/invalid-stay"
    assert problem.title
    assert problem.detail
    assert [fault.pointer for fault in problem.errors] == ["#/checkOutDate"]
    assert len(problem.trace_id or "") == 32


def test_a_capacity_below_what_is_taken_names_the_nights(saga: Api) -> None:
    with me(saga) as innbox:
        innbox.set_nights(7, CHECK_IN, CHECK_OUT, capacity=1)
        assert innbox.reserve(7, CHECK_IN, CHECK_OUT, wait_s=20).status == "CONFIRMED"
        with pytest.raises(Problem) as refused:
            innbox.set_nights(7, CHECK_IN, CHECK_OUT, capacity=0)
    assert refused.value.code == "CAPACITY_BELOW_TAKEN"
    assert [night["night"] for night in refused.value.document["nights"]] == [
        str(CHECK_IN + timedelta(days=night)) for night in range(3)
    ]


def test_another_members_reservation_is_not_there(api: Api) -> None:
    with (
        me(api) as innbox,
        Innbox(api.url, sign(api.settings, ANOTHER, (READ, WRITE))) as another,
    ):
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT)
        for look in (another.get, another.cancel, another.history, _all_events_of(another)):
            with pytest.raises(Problem) as refused:
                look(made.id)
            assert refused.value.code == "NOT_FOUND"


def test_staff_reserve_for_members_and_see_them(api: Api) -> None:
    with me(api, READ, WRITE, STAFF) as staff:
        made = staff.reserve(7, CHECK_IN, CHECK_OUT, member_id=ANOTHER)
        assert made.member_id == ANOTHER
        assert [one.id for one in staff.reservations(member_id=ANOTHER)] == [made.id]
        assert list(staff.reservations(member_id=ANOTHER + 1)) == []


def test_a_cancellation_of_another_version_than_was_seen_is_refused(api: Api) -> None:
    with me(api) as innbox:
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT)
        with pytest.raises(Problem) as refused:
            innbox.cancel(made.id, version=made.version + 1)
        assert refused.value.code == "PRECONDITION_FAILED"
        assert innbox.cancel(made.id, version=made.version).status == "CANCELLING"


def test_a_list_is_read_a_page_at_a_time_and_no_sooner_than_it_is_looked_at(api: Api) -> None:
    asked: list[httpx.Request] = []
    http = httpx.Client(event_hooks={"request": [asked.append]})
    with http, me(api, http=http) as innbox:
        made = [innbox.reserve(room, CHECK_IN, CHECK_OUT).id for room in (1, 2, 3)]
        asked.clear()
        found = innbox.reservations(limit=2, check_in_from=CHECK_IN, status="PENDING")
        assert asked == []
        assert next(found).id == made[-1]
        assert len(asked) == 1
        assert [one.id for one in found] == made[1::-1]
        assert len(asked) == 2
        assert [one.room_id for one in innbox.reservations(room_id=2)] == [2]


def test_the_saga_is_waited_for_followed_and_told(saga: Api) -> None:
    with me(saga) as innbox:
        innbox.set_nights(7, CHECK_IN, CHECK_OUT, capacity=1, name="Suite")
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT)
        assert made.open
        answered = innbox.wait_for(made.id, within_s=20)
        assert (answered.status, answered.open) == ("CONFIRMED", False)
        assert innbox.cancel(made.id, wait_s=20).status == "CANCELLED"

        told = innbox.history(made.id)
        assert [one.status for one in told] == ["PENDING", "CONFIRMED", "CANCELLING", "CANCELLED"]
        assert [one.by for one in told] == [f"member:{ME}", "rooms", f"member:{ME}", "rooms"]
        assert list(innbox.events(made.id)) == told
        assert list(innbox.events(made.id, after=told[1].version)) == told[2:]


def test_who_waits_in_vain_gets_the_reservation_as_it_is(api: Api) -> None:
    with me(api) as innbox:
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT)
        assert innbox.wait_for(made.id, within_s=0.1).open


def test_a_stream_that_breaks_goes_on_where_it_was(saga: Api) -> None:
    """Each transition is told once, however often the wire is cut."""
    wire = Wire(saga.url)
    with me(saga, url=wire.url) as follower, me(saga) as innbox:
        innbox.set_nights(7, CHECK_IN, CHECK_OUT, capacity=1)
        made = innbox.reserve(7, CHECK_IN, CHECK_OUT, wait_s=20)
        told: list[Transition] = []
        for transition in follower.events(made.id):
            told.append(transition)
            wire.cut()
            wire.mend()
            if transition.status == "CONFIRMED":
                innbox.cancel(made.id)
        assert told == innbox.history(made.id)
    wire.close()


def test_rooms_and_nights_are_set_and_seen(api: Api) -> None:
    weekend = date(2027, 1, 2)  # a Saturday
    with me(api) as innbox:
        assert innbox.set_room(7, "Suite, lake") == innbox.room(7)
        assert [room.name for room in innbox.rooms()] == ["Suite, lake"]
        opened = innbox.set_nights(7, date(2027, 1, 1), date(2027, 1, 8), capacity=2)
        assert (opened.room_id, opened.nights) == (7, 7)
        ruled = innbox.set_nights(
            7,
            date(2027, 1, 1),
            date(2027, 1, 8),
            weekdays=["SAT"],
            min_stay=2,
            closed_to_departure=True,
        )
        assert ruled.nights == 1

        calendar = innbox.calendar(7, weekend, weekend + timedelta(days=2))
        assert calendar.name == "Suite, lake"
        saturday, sunday = calendar.nights
        assert (saturday.min_stay, saturday.closed_to_departure) == (2, True)
        assert (sunday.min_stay, sunday.closed, sunday.free) == (1, False, 2)

        short = innbox.availability(7, weekend, weekend + timedelta(days=1))
        assert not short.bookable
        assert [(one.night, one.reason) for one in short.failing_nights] == [(weekend, "MIN_STAY")]
        assert innbox.availability(7, weekend, weekend + timedelta(days=2)).bookable
        assert [one.room_id for one in innbox.search(weekend, weekend + timedelta(days=2))] == [7]
        assert list(innbox.search(weekend, weekend + timedelta(days=1))) == []
        [every] = innbox.search(weekend, weekend + timedelta(days=1), bookable=False)
        assert (every.name, every.bookable) == ("Suite, lake", False)


def test_a_load_is_sent_in_parts_and_each_refused_line_has_its_own_number(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LINES_MAX", 3)
    lines = ["\ufeffroomId,night,capacity\r\n", "\n"]
    lines += [f"{room},2027-01-01,{room - 3}\n" for room in range(1, 9)]  # rooms 1 and 2: below 0
    heard: list[Loaded] = []
    with me(api) as innbox:
        loaded = innbox.load_inventory(lines, format="csv", progress=heard.append)
        assert len(list(innbox.rooms())) == 6
    assert (loaded.lines, loaded.applied) == (8, 6)
    assert [(one.line, one.code) for one in loaded.refused] == [
        (3, "INVALID_LINE"),
        (4, "INVALID_LINE"),
    ]
    assert [so_far.lines for so_far in heard] == [3, 6, 8]
    assert loaded.bytes == len("".join(lines).encode())
    assert heard[-1] == loaded


def test_a_part_whose_answer_is_lost_is_sent_again(api: Api, wire: Wire) -> None:
    repeats: list[Exception] = []
    lines = [_line(room_id=room, night="2027-01-01", capacity=2) for room in (1, 2)]
    with me(api, url=wire.url, on_repeat=repeats.append) as innbox:
        wire.cut_after(b'"roomId"')
        assert innbox.load_inventory(lines) == Loaded(sum(map(len, lines)), 2)
        assert repeats
        assert [room.id for room in innbox.rooms()] == [1, 2]


def test_threads_may_share_a_client(api: Api, engine: Engine) -> None:
    with me(api) as innbox, ThreadPoolExecutor(8) as threads:
        made = list(
            threads.map(lambda room: innbox.reserve(room, CHECK_IN, CHECK_OUT), range(1, 17))
        )
    assert sorted(one.room_id for one in made) == list(range(1, 17))
    assert len({one.id for one in made}) == count(engine, RESERVATIONS) == 16


def test_one_key_is_one_reservation_however_many_ask_at_once(api: Api, engine: Engine) -> None:
    """Those who come while the first is in hand ask again until it is done."""
    with me(api) as innbox, ThreadPoolExecutor(8) as threads:
        made = list(
            threads.map(lambda _: innbox.reserve(7, CHECK_IN, CHECK_OUT, key="party"), range(16))
        )
    assert len({one.id for one in made}) == count(engine, RESERVATIONS) == 1


@pytest.mark.unit
@pytest.mark.parametrize("trouble", [429, 502, 503, 504, 409], ids=str)
def test_what_is_not_now_is_asked_again_under_the_same_key(trouble: int) -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            # A proxy's answer is no problem document; that of a key in flight is.
            in_flight = {"type": "/problems/idempotency-key-in-flight"}
            return httpx.Response(trouble, json=in_flight if trouble == 409 else None)
        return httpx.Response(202, json=A_RESERVATION)

    with _answered(answer) as innbox:
        assert innbox.reserve(7, CHECK_IN, CHECK_OUT, key='a "key"').id == 1
    assert keys == ['"a \\"key\\""'] * 3


@pytest.mark.unit
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 501, 301])
def test_every_other_answer_is_final(status: int) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, text="<h1>no</h1>")

    with _answered(answer) as innbox, pytest.raises(Problem) as refused:
        innbox.cancel(1, key="once")
    assert (refused.value.code, refused.value.status) == (f"HTTP_{status}", status)
    assert refused.value.key == "once"
    assert len(asked) == 1


@pytest.mark.unit
def test_a_fault_of_the_apis_leaves_a_change_unknown_so_it_is_repeated_under_its_key() -> None:
    """It may have come before the commit or behind it."""
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        return httpx.Response(500) if len(keys) < 3 else httpx.Response(202, json=A_RESERVATION)

    with _answered(answer) as innbox:
        assert innbox.reserve(7, CHECK_IN, CHECK_OUT, key="once").id == 1
    assert keys == ['"once"'] * 3


@pytest.mark.unit
def test_a_fault_that_stays_ends_the_patience_and_tells_the_key() -> None:
    broken = httpx.Response(500, json={"title": "Internal error", "traceId": "5ca1ab1e"})
    with _answered(lambda _: broken, patience_s=0.2) as innbox:
        with pytest.raises(Unavailable) as unknown:
            innbox.reserve(7, CHECK_IN, CHECK_OUT, key="once")
        with pytest.raises(Problem) as looking:
            innbox.get(1)
    assert unknown.value.key == "once"
    assert isinstance(unknown.value.last, Problem)
    assert unknown.value.last.trace_id == "5ca1ab1e"
    assert (looking.value.status, looking.value.key) == (500, None)


@pytest.mark.unit
def test_patience_begins_with_the_first_failure_however_long_that_took(clock: Clock) -> None:
    """Else an answer that is slow to fail would never be asked for again."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        clock.now_s += 15
        if len(asked) == 1:
            raise httpx.ReadTimeout("silent")
        return httpx.Response(200, json=A_RESERVATION)

    with _answered(answer, patience_s=5) as innbox:
        assert innbox.get(1).id == 1
    assert len(asked) == 2


@pytest.mark.unit
def test_a_load_has_more_patience_than_a_call_unless_it_is_said(clock: Clock) -> None:
    """A part of a load takes long, and so does what is to be repeated."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        clock.now_s += 20
        return httpx.Response(503)

    def times(call: Callable[[Innbox], object], **options: Any) -> int:
        asked.clear()
        with _answered(answer, **options) as innbox, pytest.raises(Unavailable):
            call(innbox)
        return len(asked)

    def load(innbox: Innbox) -> object:
        return innbox.load_inventory([b"{}"])

    assert times(lambda innbox: innbox.get(1)) == 3
    assert times(load) == 7
    assert times(load, patience_s=0) == 1


@pytest.mark.unit
def test_a_stream_that_breaks_late_is_no_trial_of_ones_patience(clock: Clock) -> None:
    """Each hour that went well ends what was waited before."""
    resumed: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        resumed.append(request.headers.get("Last-Event-ID"))
        if len(resumed) % 2 == 0:
            raise httpx.ConnectError("still away")
        version = len(resumed) // 2 + 1
        status = ("PENDING", "CONFIRMED", "CANCELLED")[version - 1]
        return httpx.Response(
            200,
            headers={"Content-Type": "text/event-stream"},
            stream=_LateCut(_event(version, status), clock),
        )

    with _answered(answer, patience_s=5) as innbox:
        assert [one.version for one in innbox.events(1)] == [1, 2, 3]
    assert resumed == [None, "1", "1", "2", "2"]


@pytest.mark.unit
@pytest.mark.parametrize("http", [None, httpx.Client()], ids=["own connections", "shared ones"])
def test_a_closed_client_sends_nothing_more(http: httpx.Client | None) -> None:
    innbox = Innbox("http://127.0.0.1:1", "a token", http=http, patience_s=0)
    innbox.close()
    for call in (
        lambda: innbox.get(1),
        lambda: innbox.wait_for(1, within_s=60),
        lambda: list(innbox.events(1)),
        lambda: innbox.cancel(1),
    ):
        with pytest.raises(Unavailable, match="closed"):
            call()


@pytest.mark.unit
def test_who_waits_for_a_reservation_hears_that_the_client_was_closed() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        innbox.close()
        return httpx.Response(200, json=A_RESERVATION)

    innbox = _answered(answer)
    with pytest.raises(Unavailable, match="closed"):
        innbox.wait_for(1, within_s=1)
    assert len(asked) == 1


@pytest.mark.unit
def test_who_is_sending_while_another_thread_closes_hears_that_it_was_closed() -> None:
    """The connections are gone from under the request; any other error of that kind is the caller's."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            innbox.close()
        raise RuntimeError("the pool is closed")

    innbox = _answered(answer)
    with pytest.raises(RuntimeError, match="pool"):
        innbox.get(1)
    with pytest.raises(Unavailable, match="closed") as unknown:
        innbox.cancel(1, key="once")
    assert unknown.value.key == "once"


@pytest.mark.unit
@pytest.mark.parametrize("page", [b"<h1>log in</h1>", b'{"id": "\xff"}', b"{}", b""], ids=str)
def test_a_page_that_is_no_answer_of_the_apis_is_not_taken_for_one(page: bytes) -> None:
    """A proxy's login page has the status 200, too."""
    with _answered(lambda _: httpx.Response(200, content=page)) as innbox:
        for look in (
            lambda: innbox.get(1),
            lambda: list(innbox.events(1)),
            lambda: list(innbox.rooms()),
            lambda: innbox.load_inventory([b"{}"]),
        ):
            with pytest.raises(Unavailable, match="none of the API's") as unknown:
                look()
            assert unknown.value.key is None
        with pytest.raises(Unavailable, match="once"):
            innbox.cancel(1, key="once")


@pytest.mark.unit
def test_each_call_has_a_key_of_its_own_and_looking_has_none() -> None:
    keys: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("Idempotency-Key"))
        return httpx.Response(200, json=A_RESERVATION)

    with _answered(answer) as innbox:
        innbox.cancel(1)
        innbox.cancel(1)
        innbox.get(1)
    first, second, looking = keys
    assert None not in (first, second)
    assert first != second
    assert looking is None


@pytest.mark.unit
def test_a_token_that_expires_may_be_a_function() -> None:
    tokens = iter(["first", "second"])
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json=A_RESERVATION)

    with _answered(answer, token=lambda: next(tokens)) as innbox:
        innbox.get(1)
        innbox.get(1)
    assert seen == ["Bearer first", "Bearer second"]


@pytest.mark.unit
def test_a_wait_longer_than_ones_patience_is_not_begun() -> None:
    """The API asks for an hour: who has a minute is told at once."""
    away = httpx.Response(503, headers={"Retry-After": "3600"})
    with _answered(lambda _: away, patience_s=60) as innbox, pytest.raises(Unavailable) as ended:
        innbox.get(1)
    assert ended.value.key is None
    assert isinstance(ended.value.last, Problem)
    assert ended.value.last.retry_after_s == 3600


@pytest.mark.unit
def test_closing_ends_the_patience_of_other_threads() -> None:
    away = httpx.Response(503, headers={"Retry-After": "60"})
    repeats: list[Exception] = []
    ended: list[Exception] = []
    innbox = _answered(lambda _: away, patience_s=3_600, on_repeat=repeats.append)

    def ask() -> None:
        try:
            innbox.get(1)
        except Unavailable as error:
            ended.append(error)

    thread = Thread(target=ask, daemon=True)  # so that a failure is no hang
    thread.start()
    eventually(lambda: repeats)
    innbox.close()
    thread.join(10)
    assert "closed" in str(ended[0])


@pytest.mark.unit
@pytest.mark.parametrize("format_", ["ndjson", "csv"])
def test_a_part_that_was_stopped_in_the_middle_goes_on_where_it_stopped(format_: Format) -> None:
    """The database went away, or the API was shut down, when the status had been sent already."""
    bodies: list[bytes] = []
    refused = b'{"line":1,"status":"refused","code":"INVALID_LINE","detail":""}\n'
    applied = b'{"line":1,"status":"applied","nights":1}\n'
    stopped = (
        b'{"lines":1,"applied":0,"refused":1,"stoppedAtLine":2,"code":"UNAVAILABLE","detail":""}\n'
    )
    answers = [refused + stopped, applied + refused + b'{"lines":2,"applied":1,"refused":1}\n']

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200, content=answers[len(bodies) - 1])

    header = b"header\n" if format_ == "csv" else b""
    with _answered(answer) as innbox:
        loaded = innbox.load_inventory(
            [*([header] if header else []), b"one\n", b"two\n", b"three"], format=format_
        )
    first = 2 if header else 1
    assert loaded.applied == 1
    assert [one.line for one in loaded.refused] == [first, first + 2]
    assert bodies == [header + b"one\ntwo\nthree\n", header + b"two\nthree\n"]


@pytest.mark.unit
def test_a_load_that_gets_on_is_not_given_up_however_often_it_stops(clock: Clock) -> None:
    applied = b'{"line":1,"status":"applied","nights":1}\n'

    def answer(request: httpx.Request) -> httpx.Response:
        clock.now_s += 100
        if request.content.count(b"\n") == 1:
            return httpx.Response(200, content=applied + b'{"lines":1}')
        return httpx.Response(200, content=applied + b'{"lines":1,"stoppedAtLine":2}')

    with _answered(answer) as innbox:
        assert innbox.load_inventory([b"{}\n"] * 5).applied == 5


@pytest.mark.unit
@pytest.mark.parametrize("count", [1, 3])
def test_a_load_whose_lines_are_not_answered_one_by_one_is_not_called_applied(count: int) -> None:
    answers = b'{"line":1,"status":"applied","nights":1}\n' * count
    content = answers + b'{"lines":2,"applied":2,"refused":0}\n'
    with (
        _answered(lambda _: httpx.Response(200, content=content)) as innbox,
        pytest.raises(Unavailable, match=f"{count} answers to 2 lines"),
    ):
        innbox.load_inventory([b"{}\n", b"{}\n"])


@pytest.mark.unit
def test_only_what_begins_a_file_is_taken_for_a_byte_order_mark() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        line = b'{"line":1,"status":"applied","nights":1}\n'
        return httpx.Response(200, content=line * 2 + b'{"lines":2,"applied":2,"refused":0}\n')

    with _answered(answer) as innbox:
        innbox.load_inventory(["\ufeff{}\n", "\ufeff{}\n"])
    assert bodies == ["{}\n\ufeff{}\n".encode()]


@pytest.mark.unit
def test_an_item_of_two_lines_is_refused_before_its_part_is_sent() -> None:
    with (
        _answered(lambda _: pytest.fail("it was sent")) as innbox,
        pytest.raises(ValueError, match="item 2 is more than one line"),
    ):
        innbox.load_inventory(["{}\n", "{}\n{}\n"])


def test_a_wrong_header_is_told_also_when_no_line_follows(api: Api) -> None:
    with me(api) as innbox:
        assert innbox.load_inventory(["roomId,night,capacity\n"], format="csv").lines == 0
        with pytest.raises(Problem, match="colour"):
            innbox.load_inventory(["roomId,night,colour\n"], format="csv")


@pytest.mark.unit
def test_what_a_newer_api_adds_is_ignored() -> None:
    newer = A_RESERVATION | {"loyaltyPoints": 7}
    with _answered(lambda _: httpx.Response(200, json=newer)) as innbox:
        assert innbox.get(1).check_in == date(2027, 1, 10)


@pytest.mark.unit
def test_every_public_name_is_one_of_the_package() -> None:
    assert innbox_client.__all__ == sorted(innbox_client.__all__)
    assert all(getattr(innbox_client, name) for name in innbox_client.__all__)


A_RESERVATION = {
    "id": 1,
    "memberId": ME,
    "roomId": 7,
    "checkInDate": "2027-01-10",
    "checkOutDate": "2027-01-13",
    "status": "PENDING",
    "reason": None,
    "reasonCode": None,
    "version": 1,
    "createdAt": "2026-12-01T10:00:00Z",
    "updatedAt": "2026-12-01T10:00:00Z",
}


def _answered(
    answer: Callable[[httpx.Request], httpx.Response],
    *,
    token: str | Callable[[], str] = "a token",
    **options: Any,
) -> Innbox:
    """A client whose requests a function answers."""
    http = httpx.Client(transport=httpx.MockTransport(answer))
    return Innbox("http://innbox.test", token, http=http, **options)


class _LateCut(httpx.SyncByteStream):
    """A stream that breaks an hour behind what it said."""

    def __init__(self, said: bytes, clock: Clock) -> None:
        self._said = said
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        yield self._said
        self._clock.now_s += 3_600
        raise httpx.ReadError("cut")


def _event(version: int, status: str) -> bytes:
    transition = {"version": version, "status": status, "at": "2026-12-01T10:00:00Z"}
    return b"id: %d\nevent: transition\ndata: %b\n\n" % (version, msgspec.json.encode(transition))


def _all_events_of(innbox: Innbox) -> Callable[[int], list[Transition]]:
    return lambda reservation_id: list(innbox.events(reservation_id))


def _line(**members: object) -> bytes:
    camel = {"room_id": "roomId"}
    named = {camel.get(name, name): value for name, value in members.items()}
    return msgspec.json.encode(named) + b"\n"
