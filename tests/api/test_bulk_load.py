"""Bulk loads: streamed in and out, each line by itself, safe to repeat, and beside a busy consumer."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from gzip import compress
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile
from threading import Barrier, Event
from typing import IO, Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import HTTPDisconnectEvent, Message, Scope
from sqlalchemy import Connection, Engine, create_engine, event, text

from api import inventory
from api.identity.scopes import INVENTORY
from api.identity.signing import sign
from api.inventory.loading import ATTEMPTS_MAX, NIGHTS_PER_BATCH, Load
from api.inventory.reading import LINE_BYTES_MAX, Lines, reader_of
from consumers.rooms import RoomsHandler
from domain.rooms.nights import NIGHTS_NAMED_MAX
from domain.stay import Stay
from tests.support.api_client import (
    ME,
    Api,
    Wire,
    an_api,
    an_api_process,
    assert_problem,
    count,
    some_settings,
    take,
)
from tests.support.saga import (
    ALPINE,
    EVE,
    SEASIDE,
    a_cancel,
    a_reserve,
    apply_patiently,
    open_rooms,
    overheld,
    records,
)
from tests.support.waiting import eventually

NDJSON, CSV = "application/x-ndjson", "text/csv"
JSON = {"Content-Type": NDJSON}


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with an_api(database_url, bulk_bytes_max=1_000_000) as api:
        yield api


@pytest.fixture
def staff(api: Api) -> httpx.Client:
    return api.member(ME, INVENTORY)


def load(client: httpx.Client, body: Any, kind: str = NDJSON) -> list[dict[str, Any]]:
    """The answers, the summary last."""
    response = client.post("/v1/inventory", content=body, headers={"Content-Type": kind})
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith(NDJSON)
    return [json.loads(line) for line in response.text.splitlines()]


def as_json(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def a_line(day: int = 0, **fields: Any) -> dict[str, Any]:
    night = (EVE + timedelta(days=day)).isoformat()
    return {"roomId": ALPINE, "night": night, "capacity": 4} | fields


def stored(engine: Engine, columns: str = "capacity") -> list[tuple[Any, ...]]:
    query = text(f"SELECT {columns} FROM rooms.room_night ORDER BY room_id, night")
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_each_line_is_answered_in_order_and_a_bad_one_keeps_no_other_from_being_applied(
    staff: httpx.Client, engine: Engine
) -> None:
    staff.put(
        f"/v1/rooms/{SEASIDE}/nights",
        json={"from": "2026-12-24", "to": "2026-12-26", "capacity": 3},
    )
    take(engine, "2026-12-25")
    body = as_json(
        a_line(0, name="Alpine", minStay=2),
        a_line(0, roomId=SEASIDE, night=None, **{"from": "2026-12-24", "to": "2026-12-27"}, capacity=1),
        {"roomId": ALPINE, "from": "2026-12-24", "to": "2027-01-07", "weekdays": ["SAT"], "capacity": 2},
        a_line(1, capacity=None, closed=True),
        a_line(1, capacity="4"),
        a_line(1),
    )  # fmt: skip

    answers = load(staff, body)

    assert answers == [
        {"line": 1, "status": "applied", "nights": 1},
        {
            "line": 2,
            "status": "refused",
            "code": "CAPACITY_BELOW_TAKEN",
            "detail": "more rooms are held on 1 of its nights",
            "nights": [{"night": "2026-12-25", "capacity": 3, "taken": 2}],
        },
        {"line": 3, "status": "applied", "nights": 2},
        {
            "line": 4,
            "status": "refused",
            "code": "NIGHT_WITHOUT_CAPACITY",
            "detail": "1 of its nights are new and have no capacity",
            "nights": [{"night": "2026-12-25"}],
        },
        {
            "line": 5,
            "status": "refused",
            "code": "INVALID_LINE",
            "detail": "Expected `int | null`, got `str`",
            "field": "capacity",
        },
        {"line": 6, "status": "applied", "nights": 1},
        {"lines": 6, "applied": 3, "refused": 3},
    ]
    assert stored(engine, "room_id, capacity, min_stay") == [
        (ALPINE, 4, 2), (ALPINE, 4, 1), (ALPINE, 2, 1), (ALPINE, 2, 1),
        (SEASIDE, 3, 1), (SEASIDE, 3, 1),
    ]  # fmt: skip


def test_csv_says_the_same_as_json(staff: httpx.Client, engine: Engine) -> None:
    """As a spreadsheet writes it: a byte order mark, carriage returns, quotes, empty cells."""
    body = (
        "\ufeffroomId,night,from,to,weekdays,capacity,closed,minStay,closedToArrival,closedToDeparture,name\r\n"
        '7,2026-12-24,,,,4,,,,,"Suite, ""lake"""\r\n'
        "\r\n"
        "7,,2026-12-24,2027-01-01,SAT SUN,5,true,2,true,false,\r\n"
        "7,2026-12-24,,,,,,3,,true,\r\n"
        "7,2026-12-24,,,,4.5,,,,,\r\n"
        "7,2026-12-24,,,,4,yes,,,,\r\n"
        "7,2026-12-24\r\n"
        '7,2026-12-24,,,,4,,,,,"open\r\n'
        "8,2026-12-24,,,,1,false,,,,"
    )

    answers = load(staff, body.encode(), CSV)

    told = [(one["line"], one.get("code"), one.get("field")) for one in answers[:-1]]
    assert told == [
        (2, None, None),
        (4, None, None),
        (5, None, None),
        (6, "INVALID_LINE", "capacity"),
        (7, "INVALID_LINE", "closed"),
        (8, "MALFORMED_LINE", None),
        (9, "MALFORMED_LINE", None),
        (10, None, None),
    ]
    assert answers[-1] == {"lines": 8, "applied": 4, "refused": 4}
    assert staff.get("/v1/rooms/7").json()["name"] == 'Suite, "lake"'
    columns = "capacity, closed, min_stay, closed_to_arrival, closed_to_departure"
    assert stored(engine, columns) == [
        (4, False, 3, False, True),
        (5, True, 2, True, False),
        (5, True, 2, True, False),
        (1, False, 1, False, False),
    ]


BAD_LINES: list[tuple[bytes, str, str | None]] = [
    (b"{", "MALFORMED_LINE", None),
    (b"\xff", "MALFORMED_LINE", None),
    (b'{"roomId":7,"name":"\xff"}', "MALFORMED_LINE", None),
    (b"[" * 4_000, "INVALID_LINE", None),
    (b'{"name":"' + b"x" * LINE_BYTES_MAX + b'"}', "LINE_TOO_LONG", None),
    (b"[]", "INVALID_LINE", None),
    (as_json({"night": "2026-12-24"}), "INVALID_LINE", "roomId"),
    (as_json(a_line(roomId=0)), "INVALID_LINE", "roomId"),
    (as_json(a_line(roomId=2**63)), "INVALID_LINE", "roomId"),
    (as_json(a_line(night="24.12.2026")), "INVALID_LINE", "night"),
    (as_json(a_line(night="2026-12-24T00:00:00")), "INVALID_LINE", "night"),
    (as_json(a_line(night=None)), "INVALID_LINE", "night"),
    (as_json(a_line(night=None, to="2026-12-25")), "INVALID_LINE", "from"),
    (as_json(a_line(to="2026-12-25")), "INVALID_LINE", "to"),
    (as_json(a_line(weekdays=["MON"])), "INVALID_LINE", "weekdays"),
    (as_json(a_line(closed=1)), "INVALID_LINE", "closed"),
    (as_json(a_line(name="\0")), "INVALID_LINE", "name"),
    (as_json(a_line(name=" \t\u00a0")), "INVALID_LINE", "name"),
    (as_json(a_line(beds=2)), "INVALID_LINE", "beds"),
    (as_json(a_line(night="9999-12-31")), "INVALID_RANGE", "night"),
    (as_json(a_line(night="1999-12-31")), "INVALID_RANGE", "night"),
    (as_json({"roomId": 7, "from": "2026-12-24", "to": "2026-12-24"}), "INVALID_RANGE", "to"),
    (as_json({"roomId": 7, "from": "2026-12-24", "to": "2036-12-24"}), "INVALID_RANGE", "to"),
]


def test_a_line_that_makes_no_sense_is_told_what_is_wrong_and_where(
    staff: httpx.Client, engine: Engine
) -> None:
    answers = load(staff, b"\n".join(line.rstrip(b"\n") for line, _, _ in BAD_LINES))

    told = [(one["line"], one["code"], one.get("field")) for one in answers[:-1]]
    assert told == [(number, *bad[1:]) for number, bad in enumerate(BAD_LINES, start=1)]
    assert answers[-1] == {"lines": len(BAD_LINES), "applied": 0, "refused": len(BAD_LINES)}
    assert count(engine, "rooms.room_night") == 0


@pytest.mark.parametrize(
    "header", [b"night,capacity", b"roomId,night,colour", b"roomId,roomId", b'"roomId', b"\xff"]
)
def test_a_header_that_says_nothing_refuses_the_load(staff: httpx.Client, header: bytes) -> None:
    body = header + b"\n7,2026-12-24,4\n"
    refused = staff.post("/v1/inventory", content=body, headers={"Content-Type": CSV})

    assert_problem(refused, 422, "invalid-request")


def test_only_two_types_of_body_are_read(staff: httpx.Client) -> None:
    for kind in ("application/json", "text/plain; charset=utf-8", ""):
        refused = staff.post("/v1/inventory", content=b"{}", headers={"Content-Type": kind})
        assert_problem(refused, 415, "unsupported-media-type")
    assert load(staff, b"", f"{CSV}; charset=utf-8") == [{"lines": 0, "applied": 0, "refused": 0}]


def test_a_body_that_is_encoded_is_refused_and_not_taken_for_lines(staff: httpx.Client) -> None:
    for encoding in ("gzip", "identity, gzip", "br"):
        headers = JSON | {"Content-Encoding": encoding}
        refused = staff.post("/v1/inventory", content=compress(as_json(a_line())), headers=headers)
        assert_problem(refused, 415, "unsupported-media-type")
        assert refused.headers["Accept-Encoding"] == "identity"
    plain = staff.post(
        "/v1/inventory", content=as_json(a_line()), headers=JSON | {"Content-Encoding": "Identity"}
    )
    assert plain.is_success


@pytest.mark.parametrize(
    ("kind", "first"), [(NDJSON, b""), (CSV, b"roomId,night,capacity\n")], ids=["ndjson", "csv"]
)
def test_a_byte_order_mark_is_passed_over_at_the_beginning_and_nowhere_else(
    staff: httpx.Client, kind: str, first: bytes
) -> None:
    mark = b"\xef\xbb\xbf"
    line = as_json(a_line()) if kind == NDJSON else b"7,2026-12-24,4\n"

    answers = load(staff, mark + first + line + mark + line, kind)

    assert [one["status"] for one in answers[:-1]] == ["applied", "refused"]


def test_a_load_whose_answers_are_far_longer_than_a_body_may_be_is_stopped(
    staff: httpx.Client,
) -> None:
    """As many bytes as the body could have are answered many times over, and put by on the disk."""
    body = b"x\n" * 400_000
    response = staff.post("/v1/inventory", content=body, headers=JSON)
    answers = [json.loads(line) for line in response.text.splitlines()]

    assert len(response.content) < 5_500_000, "four times the limit, and a part"
    assert answers[-1]["code"] == "TOO_MANY_ANSWERS"
    assert answers[-1]["stoppedAtLine"] == answers[-1]["refused"] + 1 == len(answers)


def test_an_answer_names_a_few_nights_and_counts_them_all(
    staff: httpx.Client, engine: Engine
) -> None:
    year = {"roomId": ALPINE, "from": "2026-12-24", "to": "2027-12-24"}
    new, opened = load(staff, as_json(year | {"minStay": 2}, year | {"capacity": 3}))[:2]
    with engine.begin() as connection:
        connection.execute(text("UPDATE rooms.room_night SET taken = 2"))
    below, _ = load(staff, as_json(year | {"capacity": 1}))

    assert opened["status"] == "applied"
    assert [len(one["nights"]) for one in (new, below)] == [NIGHTS_NAMED_MAX] * 2
    assert [one["detail"].count("365") for one in (new, below)] == [1, 1]


def test_of_lines_for_one_night_the_later_ones_win_whatever_their_part(
    staff: httpx.Client, engine: Engine
) -> None:
    apart = [a_line(0, capacity=3), *(a_line(1, capacity=9) for _ in range(NIGHTS_PER_BATCH))]
    load(
        staff, as_json(*apart, a_line(0, capacity=5), a_line(1, capacity=1), a_line(1, capacity=2))
    )

    assert stored(engine) == [(5,), (2,)]


def test_a_load_may_be_repeated(staff: httpx.Client, engine: Engine) -> None:
    body = as_json(*(a_line(day, roomId=room) for room in (7, 8) for day in range(50)))
    once = load(staff, body)
    take(engine, "2026-12-25")
    before = stored(engine, "room_id, night, capacity, taken, capacity_peak, xmin::text")

    assert load(staff, body) == once
    assert stored(engine, "room_id, night, capacity, taken, capacity_peak, xmin::text") == before


def test_lines_are_applied_while_the_body_is_still_on_its_way(
    staff: httpx.Client, engine: Engine
) -> None:
    def body() -> Iterator[bytes]:
        yield some_lines(10_000)
        eventually(lambda: count(engine, "rooms.room_night") > NIGHTS_PER_BATCH)
        yield as_json(a_line(0, roomId=9_999))

    assert load(staff, body())[-1] == {"lines": 10_001, "applied": 10_001, "refused": 0}


def test_a_client_that_breaks_off_leaves_what_was_applied_and_nothing_of_the_line_in_hand(
    staff: httpx.Client, engine: Engine
) -> None:
    def body() -> Iterator[bytes]:
        yield some_lines(10_000)
        yield b'{"roomId":9999,"night":"2026-12-24","capacity":4}'
        eventually(lambda: count(engine, "rooms.room_night") > NIGHTS_PER_BATCH)
        raise ConnectionAbortedError

    with suppress(ConnectionAbortedError):
        load(staff, body())

    assert count(engine, "rooms.room_night") > NIGHTS_PER_BATCH
    assert load(staff, some_lines(10_000))[-1] == {"lines": 10_000, "applied": 10_000, "refused": 0}
    assert count(engine, "rooms.room_night") == 10_000


def test_a_body_over_its_own_limit_is_refused_told_or_not(
    staff: httpx.Client, engine: Engine
) -> None:
    """That of other bodies is far lower, and does not count here."""
    assert load(staff, some_lines(5_000))[-1]["applied"] == 5_000
    too_much = some_lines(40_000)
    told = staff.post("/v1/inventory", content=too_much, headers=JSON)
    assert_problem(told, 413, "body-too-large")
    assert count(engine, "rooms.room_night") == 5_000

    with suppress(httpx.WriteError):  # it may hear of it while it is still writing
        untold = staff.post("/v1/inventory", content=iter([too_much]), headers=JSON)
        assert_problem(untold, 413, "body-too-large")


def some_lines(number: int) -> bytes:
    """So many nights, a hundred a room."""
    return b"".join(
        b'{"roomId":%d,"night":"%s","capacity":4}\n'
        % (1 + at // 100, (EVE + timedelta(days=at % 100)).isoformat().encode())
        for at in range(number)
    )


def test_without_a_database_nothing_is_applied_and_503_says_so(database_url: str) -> None:
    with closing(Wire(database_url)) as wire, an_api(wire.url, pool_timeout_s=0.5) as api:
        wire.cut()
        away = api.member(ME, INVENTORY).post("/v1/inventory", content=some_lines(10), headers=JSON)

    assert_problem(away, 503, "unavailable")


def test_a_database_that_goes_away_in_the_middle_is_told_with_the_line_to_go_on_from(
    database_url: str, engine: Engine
) -> None:
    with closing(Wire(database_url)) as wire, an_api(wire.url, pool_timeout_s=0.5) as api:
        staff = api.member(ME, INVENTORY)
        lines = some_lines(20_000).splitlines(keepends=True)

        def body() -> Iterator[bytes]:
            yield b"".join(lines[:10_000])
            eventually(lambda: count(engine, "rooms.room_night") > NIGHTS_PER_BATCH)
            wire.cut()
            yield b"".join(lines[10_000:])

        *answers, summary = load(staff, body())
        wire.mend()
        rest = load(staff, b"".join(lines[summary["stoppedAtLine"] - 1 :]))

    assert summary["code"] == "UNAVAILABLE"
    assert summary["applied"] == len(answers) == summary["stoppedAtLine"] - 1
    assert [one["line"] for one in answers] == list(range(1, len(answers) + 1))
    assert rest[-1]["applied"] == 20_000 - len(answers)
    assert count(engine, "rooms.room_night") == 20_000


def test_a_stop_in_the_middle_is_told_with_the_line_to_go_on_from(
    database_url: str, engine: Engine
) -> None:
    """However much a portion of the body asks for, the process ends in time."""
    years = {"from": "2026-12-24", "to": "2029-12-24", "capacity": 4}
    body = as_json(*({"roomId": room} | years for room in range(1, 2_001)))
    headers = {"Authorization": f"Bearer {sign(some_settings(database_url), ME, [INVENTORY])}"}
    with (
        an_api_process(database_url) as (process, url),
        httpx.Client(base_url=url, headers=headers, timeout=60) as staff,
        ThreadPoolExecutor(1) as pool,
    ):
        loading = pool.submit(load, staff, body)
        eventually(lambda: count(engine, "rooms.room_night") > 0)
        process.send_signal(signal.SIGTERM)
        *answers, summary = loading.result(30)
        assert process.wait(30) == 0

    assert summary["code"] == "UNAVAILABLE"
    assert 0 < summary["applied"] == len(answers) == summary["stoppedAtLine"] - 1 < 2_000
    assert count(engine, "rooms.room_night") == 1_096 * len(answers)


def test_a_stop_does_not_wait_for_a_body_that_does_not_come(
    database_url: str, engine: Engine
) -> None:
    with (
        an_api(database_url) as api,
        a_connection(api, api.member(ME, INVENTORY), body_bytes=10**6) as wire,
    ):
        # A portion and a little, which is read at once: what is left unread at the end breaks the answer.
        wire.sendall(some_lines(9_000))
        eventually(lambda: count(engine, "rooms.room_night") > NIGHTS_PER_BATCH)
        api.stop.set()
        answers = read_all(wire)

    assert answers.startswith(b"HTTP/1.1 200")
    assert b'"stoppedAtLine":' in answers
    assert b'"UNAVAILABLE"' in answers


def a_connection(api: Api, staff: httpx.Client, body_bytes: int) -> socket.socket:
    """A load whose head is sent; its body, of so many bytes, is the test's to send."""
    url = httpx.URL(api.url)
    wire = socket.create_connection((url.host, url.port or 80), timeout=30)
    head = (
        f"POST /v1/inventory HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
        f"Authorization: {staff.headers['Authorization']}\r\n"
        f"Content-Type: {NDJSON}\r\nContent-Length: {body_bytes}\r\n\r\n"
    )
    wire.sendall(head.encode())
    return wire


def read_all(wire: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):  # more of the body was on its way when it was closed
        while chunk := wire.recv(65_536):
            received += chunk
    return received


def test_the_answers_leave_the_disk_if_the_client_goes_away_in_the_midst_of_them(
    api: Api, staff: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[IO[bytes]] = []

    def noted(bytes_max: int) -> IO[bytes]:
        made.append(SpooledTemporaryFile(bytes_max))  # noqa: SIM115 - the API closes it
        return made[-1]

    monkeypatch.setattr(inventory, "SpooledTemporaryFile", noted)
    body = b"x\n" * 200_000
    with a_connection(api, staff, body_bytes=len(body)) as wire:
        wire.sendall(body)
        assert wire.recv(10).startswith(b"HTTP/1.1 2")
        assert not made[0].closed
    eventually(lambda: made[0].closed)


@pytest.mark.unit
def test_the_answers_leave_the_disk_if_they_cannot_even_be_begun() -> None:
    answers = BytesIO(b"{}\n")

    async def receive() -> HTTPDisconnectEvent:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        raise BrokenPipeError

    async def begin() -> None:
        await inventory._sending(answers)(cast("Scope", {"type": "http"}), receive, send)

    with pytest.raises(BrokenPipeError):
        asyncio.run(begin())
    assert answers.closed


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
def test_a_part_that_waited_in_vain_is_applied_again(engine: Engine, limit: str) -> None:
    open_rooms(engine)
    impatient = create_engine(engine.url)

    @event.listens_for(
        impatient, "begin", once=True
    )  # whoever tries again has all the time they need
    def hurry(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL {limit} = '200ms'")

    with engine.connect() as other:
        lock_all_rooms(other)
        event.listen(impatient, "handle_error", lambda _: other.rollback())
        one = a_load(impatient)
        one.take(as_json(a_line(capacity=9)).splitlines())

    assert (one.applied, one.stopped) == (1, None)
    impatient.dispose()


@pytest.mark.parametrize(
    ("limit", "code"), [("statement_timeout", "TIMED_OUT"), ("lock_timeout", "LOCKED")]
)
def test_a_part_that_always_waits_in_vain_ends_the_load_and_says_why(
    engine: Engine, limit: str, code: str
) -> None:
    open_rooms(engine)
    failures: list[object] = []
    answers = BytesIO()
    impatient = create_engine(engine.url, connect_args={"options": f"-c {limit}=100ms"})
    event.listen(impatient, "handle_error", failures.append)
    with engine.connect() as other:
        lock_all_rooms(other)
        one = a_load(impatient, answers)
        one.take(as_json(a_line(), a_line(1)).splitlines())
        one.take(as_json(a_line(2)).splitlines())
        one.end()

    summary = json.loads(answers.getvalue())
    assert (summary["stoppedAtLine"], summary["code"]) == (1, code)
    assert len(failures) == ATTEMPTS_MAX
    impatient.dispose()


def a_load(engine: Engine, answers: IO[bytes] | None = None) -> Load:
    return Load(engine, reader_of(NDJSON), answers or BytesIO(), Event(), 1_000_000)


def lock_all_rooms(connection: Connection) -> None:
    connection.execute(text("SELECT id FROM rooms.room FOR UPDATE"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is Linux's to tell")
def test_a_load_takes_little_memory_however_long_it_is(database_url: str) -> None:
    """Neither the body nor the answers are ever whole in memory."""
    headers = {"Authorization": f"Bearer {sign(some_settings(database_url), ME, [INVENTORY])}"}
    applied = [as_json(a_line(day % 700, name="x" * 200)) * 25 for day in range(1_000)]
    refused = [as_json({"x" * 2_000: day}) * 25 for day in range(400)]  # quoted twice in its answer
    with (
        an_api_process(database_url) as (process, url),
        httpx.Client(base_url=url, headers=headers, timeout=60) as staff,
    ):
        load(staff, b"".join(applied[:100] + refused[:40]))
        before = peak(process.pid)
        *answers, summary = load(staff, iter(applied + refused))
        after = peak(process.pid)

    assert (summary["applied"], summary["refused"]) == (25_000, 10_000)
    sent, answered = (sum(map(len, applied + refused)), sum(len(str(one)) for one in answers))
    assert min(sent, answered) > 25_000_000
    assert after - before < 10_000_000


def peak(pid: int) -> int:
    """The most bytes of memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    [peak_kb] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak_kb) * 1024


chunked = st.lists(
    st.sampled_from([b"", b"\n", b"\r\n", b"a", b"bc" * 10, b"d" * 3_000]), max_size=20
)


@pytest.mark.unit
@given(chunked)
def test_lines_are_the_same_however_the_body_is_cut(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    lines = Lines()

    cut = [line for chunk in chunks for line in lines.feed(chunk)] + lines.end()

    expected = whole.split(b"\n")
    assert cut == [
        line if len(line) <= LINE_BYTES_MAX else None
        for line in (expected if expected[-1] else expected[:-1])
    ]


@pytest.mark.unit
def test_a_line_without_an_end_is_not_collected() -> None:
    lines = Lines()
    for _ in range(1_000):
        assert lines.feed(b"x" * 65_536) == []

    assert len(lines._rest) == LINE_BYTES_MAX + 1
    assert lines.feed(b"\n") == [None]


def test_loads_beside_a_busy_consumer_neither_deadlock_nor_lose_what_is_taken(
    engine: Engine,
) -> None:
    """Two consumers hold and release, two loads change capacities and rules of the same nights."""
    open_rooms(engine, capacity=3)
    stays = [Stay(EVE + timedelta(days=day), EVE + timedelta(days=day + 4)) for day in range(4)]
    reserves = [
        a_reserve(number, number, room_id=(ALPINE, SEASIDE)[number % 2], stay=stays[number % 4])
        for number in range(1, 601)
    ]
    cancels = [a_cancel(number, 10_000 + number) for number in range(1, 601, 2)]
    batches = [records(*reserves[at : at + 20]) for at in range(0, 600, 20)]
    batches += [records(*cancels[at : at + 20]) for at in range(0, 300, 20)]
    start = Barrier(4)

    def consume(ours: Sequence[Any]) -> None:
        start.wait()
        for batch in ours:
            apply_patiently(engine, RoomsHandler(), batch)

    def change(turn: int) -> int:
        start.wait()
        loads = [a_load(engine) for _ in range(40)]
        for number, one in enumerate(loads):
            one.take(as_json(*some_changes(number, reverse=turn == 1)).splitlines())
        assert not any(one.stopped for one in loads)
        return sum(one.applied for one in loads)

    with ThreadPoolExecutor(4) as pool:
        consumers = [pool.submit(consume, batches[turn::2]) for turn in range(2)]
        changes = [pool.submit(change, turn) for turn in range(2)]
        for done in consumers:
            done.result(120)
        assert all(done.result(120) for done in changes)

    with engine.connect() as connection:
        assert not overheld(connection)
        over = "SELECT count(*) FROM rooms.room_night WHERE taken > capacity"
        assert connection.scalar(text(over)) == 0
        assert connection.scalar(text("SELECT count(*) FROM rooms.allocation")) == 600
    assert deadlocks(engine) == 0


def some_changes(number: int, *, reverse: bool) -> list[dict[str, Any]]:
    """All nights of both rooms, forwards or backwards: a capacity that comes and goes, and rules."""
    lines = [
        a_line(
            day, roomId=room, capacity=1 + (number + day) % 4, minStay=1 + number % 2, closed=False
        )
        for room in (ALPINE, SEASIDE)
        for day in range(8)
    ]
    return lines[::-1] if reverse else lines


def deadlocks(engine: Engine) -> int:
    """How many Postgres has ended here; a connection tells when it is closed."""
    counted = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    others = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """)
    engine.dispose()
    alone = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with closing(alone.connect()) as connection:
        eventually(lambda: connection.scalar(others) == 0)
        found = int(connection.scalar(counted) or 0)
    alone.dispose()
    return found
