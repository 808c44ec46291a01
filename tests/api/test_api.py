"""The API over real HTTP on a real database: what it promises, and what it says when it cannot."""

import json
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

from api.identity.scopes import INVENTORY
from api.identity.signing import sign
from domain.idempotency import RESERVATION_KEYS, Claimed, KeyedRequest
from ops.local import Servers
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
    count,
    put_into,
    some_settings,
    today,
)
from tests.support.db_faults import read_only
from tests.support.waiting import eventually

ONCE = KeyedRequest(ME, "once", bytes(32))
ALL_OF_A_RESERVATION = ("reservations.reservation", "reservations.transition", "outbox.message")


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    with closing(Wire(database_url)) as wire:
        yield wire


def test_a_reservation_its_transition_and_its_message_are_one_transaction(
    me: httpx.Client, engine: Engine
) -> None:
    response = me.post(RESERVATIONS, json=a_stay(roomId=5), headers={"Idempotency-Key": "once"})

    reservation = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"{RESERVATIONS}/{reservation['id']}"
    assert reservation["status"] == "PENDING"
    assert me.get(response.headers["Location"]).json() == reservation
    [message] = rows(engine, "SELECT * FROM outbox.message")
    assert (message["topic"], message["key"]) == ("room-reserve", "5")
    assert json.loads(message["value"]) == {"reservationId": reservation["id"]} | a_stay(roomId=5)
    [transition] = rows(engine, "SELECT * FROM reservations.transition")
    assert transition["message_id"] == message["message_id"]
    tables = (*ALL_OF_A_RESERVATION, "reservations.idempotency_key")
    assert (
        len({rows(engine, f"SELECT xmin::text FROM {table}")[0]["xmin"] for table in tables}) == 1
    )


def test_a_transaction_that_fails_at_its_commit_leaves_nothing(
    me: httpx.Client, engine: Engine
) -> None:
    refuse_commits(engine)

    response = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    assert_problem(response, 500, "internal-error")
    assert "no commit today" not in response.text
    for table in (*ALL_OF_A_RESERVATION, "reservations.idempotency_key"):
        assert count(engine, table) == 0


def test_a_key_repeats_its_answer(me: httpx.Client, engine: Engine) -> None:
    first = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})
    again = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert [count(engine, table) for table in ALL_OF_A_RESERVATION] == [1, 1, 1]


def test_a_key_is_not_for_another_request(me: httpx.Client) -> None:
    first = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    other_room = me.post(RESERVATIONS, json=a_stay(roomId=2), headers={"Idempotency-Key": "once"})
    other_act = me.post(
        first.headers["Location"] + "/cancellation", headers={"Idempotency-Key": "once"}
    )
    me.post(first.headers["Location"] + "/cancellation", headers={"Idempotency-Key": "cancel"})
    other_one = me.post(f"{RESERVATIONS}/1000/cancellation", headers={"Idempotency-Key": "cancel"})

    for response in (other_room, other_act, other_one):
        assert_problem(response, 422, "idempotency-key-reused")


def test_two_members_may_use_the_same_key(api: Api, engine: Engine) -> None:
    for member in (ME, ANOTHER):
        api.member(member).post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    assert count(engine, "reservations.reservation") == 2


def test_a_key_in_flight_is_told_so_and_may_be_tried_again(
    me: httpx.Client, engine: Engine
) -> None:
    with engine.connect() as connection:
        assert isinstance(RESERVATION_KEYS.claim(connection, ONCE), Claimed)
        during = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})
    afterwards = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    assert_problem(during, 409, "idempotency-key-in-flight")
    assert during.headers["Retry-After"] == "1"
    assert afterwards.status_code == 202


def test_parallel_repeats_of_a_key_make_one_reservation(me: httpx.Client, engine: Engine) -> None:
    def repeat(_: int) -> httpx.Response:
        return me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    with ThreadPoolExecutor(24) as threads:
        responses = list(threads.map(repeat, range(96)))

    accepted = [response for response in responses if response.status_code == 202]
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.json()["id"] for response in accepted}) == 1
    assert sum("Idempotency-Replayed" not in response.headers for response in accepted) == 1
    assert [count(engine, table) for table in ALL_OF_A_RESERVATION] == [1, 1, 1]


def test_a_commit_whose_answer_is_lost_is_found_again_by_its_key(
    wire: Wire, engine: Engine
) -> None:
    with an_api(wire.url, doorbell_ms=0) as api:
        me = api.member()
        me.get(RESERVATIONS)
        wire.cut_after(b"INSERT INTO reservations.reservation")  # the commit goes with it
        lost = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})
        eventually(lambda: count(engine, "reservations.reservation") == 1)
        again = me.post(RESERVATIONS, json=a_stay(), headers={"Idempotency-Key": "once"})

    assert_problem(lost, 503, "outcome-unknown")
    assert again.status_code == 202
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count(engine, "reservations.reservation") == 1


def test_cancelling_asks_the_rooms_once(me: httpx.Client, engine: Engine) -> None:
    location = me.post(RESERVATIONS, json=a_stay(roomId=5)).headers["Location"]

    first = me.post(f"{location}/cancellation")
    again = me.post(f"{location}/cancellation")

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json() == me.get(location).json()
    assert (first.json()["status"], first.json()["version"]) == ("CANCELLING", 2)
    messages = rows(engine, "SELECT * FROM outbox.message ORDER BY position")
    assert [message["topic"] for message in messages] == ["room-reserve", "room-cancel"]
    assert messages[0]["value"] == messages[1]["value"]
    transitions = rows(engine, "SELECT message_id FROM reservations.transition ORDER BY version")
    assert [row["message_id"] for row in transitions] == [row["message_id"] for row in messages]


def test_a_cancellation_is_repeated_under_its_key(me: httpx.Client) -> None:
    location = me.post(RESERVATIONS, json=a_stay()).headers["Location"]
    responses = [
        me.post(f"{location}/cancellation", headers={"Idempotency-Key": "cancel"}) for _ in range(2)
    ]

    assert responses[0].json() == responses[1].json()
    assert responses[1].headers["Idempotency-Replayed"] == "true"


def test_what_is_cancelled_stays_so_and_what_is_rejected_cannot_be(
    me: httpx.Client, engine: Engine
) -> None:
    cancelled, rejected = (me.post(RESERVATIONS, json=a_stay()).json()["id"] for _ in range(2))
    put_into(engine, cancelled, "CANCELLED")
    put_into(engine, rejected, "REJECTED", "SOLD_OUT: no room left")

    again = me.post(f"{RESERVATIONS}/{cancelled}/cancellation")
    refused = me.post(
        f"{RESERVATIONS}/{rejected}/cancellation", headers={"Idempotency-Key": "cancel"}
    )

    assert (again.status_code, again.json()["status"]) == (200, "CANCELLED")
    assert_problem(refused, 409, "not-cancellable")
    assert me.get(f"{RESERVATIONS}/{rejected}").json()["reason"] == "SOLD_OUT: no room left"
    assert count(engine, "outbox.message") == 2
    assert count(engine, "reservations.idempotency_key") == 0


def test_nobody_sees_or_cancels_what_is_not_theirs(api: Api, me: httpx.Client) -> None:
    location = me.post(RESERVATIONS, json=a_stay()).headers["Location"]
    nowhere = f"{RESERVATIONS}/999999"
    stranger = api.member(ANOTHER)

    for method, end in (("GET", ""), ("POST", "/cancellation")):
        theirs = stranger.request(method, location + end)
        nobodys = stranger.request(method, nowhere + end)
        assert_problem(theirs, 404, "not-found")
        assert without_occurrence(theirs) == without_occurrence(nobodys)
    assert stranger.get(RESERVATIONS).json() == {"items": [], "next": None}
    assert me.get(location).json()["status"] == "PENDING"


def test_pages_stay_what_they_are_while_reservations_are_added(me: httpx.Client) -> None:
    ids = [me.post(RESERVATIONS, json=a_stay()).json()["id"] for _ in range(5)]

    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = me.get(RESERVATIONS, params=query).json()
        seen += [item["id"] for item in page["items"]]
        me.post(RESERVATIONS, json=a_stay())
        if (cursor := page["next"]) is None:
            break

    assert seen == ids[::-1]


def test_a_page_that_is_just_full_is_the_last(me: httpx.Client) -> None:
    for _ in range(2):
        me.post(RESERVATIONS, json=a_stay())

    assert me.get(RESERVATIONS, params={"limit": 2}).json()["next"] is None


def test_nights_are_opened_seen_and_never_set_below_what_is_taken(api: Api, engine: Engine) -> None:
    staff, first = api.member(ME, INVENTORY), today() + timedelta(days=30)
    last = first + timedelta(days=2)
    nights = {"from": first.isoformat(), "to": last.isoformat(), "capacity": 2, "name": "Suite"}

    opened = staff.put("/v1/rooms/1/nights", json=nights)
    with engine.begin() as connection:
        connection.execute(text("UPDATE rooms.room_night SET taken = 1"))
    refused = staff.put("/v1/rooms/1/nights", json=nights | {"capacity": 0})

    assert opened.json() == {"roomId": 1, "nights": 2}
    assert_problem(refused, 409, "capacity-below-taken")
    assert refused.json()["nights"][0] == {"night": first.isoformat(), "capacity": 2, "taken": 1}
    assert availability(staff, first, last) == {
        "bookable": True,
        "minimumFree": 1,
        "failingNights": [],
    }
    assert availability(staff, first, last + timedelta(days=1)) == {
        "bookable": False,
        "minimumFree": 0,
        "failingNights": [{"night": last.isoformat(), "reason": "NIGHT_NOT_OPEN"}],
    }


def test_the_rooms_may_have_a_database_of_their_own(
    database_url: str, second_database_url: str, engine: Engine
) -> None:
    nights = {"from": "2026-12-24", "to": "2026-12-25", "capacity": 2}
    with an_api(database_url, rooms_database_url=second_database_url) as api:
        assert api.member(ME, INVENTORY).put("/v1/rooms/1/nights", json=nights).is_success

    assert count(engine, "rooms.room_night") == 0


BAD_REQUESTS: list[tuple[int, str, dict[str, Any], dict[str, Any]]] = [
    (400, "malformed-body", {"content": b"{"}, {}),
    (422, "invalid-request", {}, {"pointer": "#"}),
    (422, "invalid-request", {"json": []}, {"pointer": "#"}),
    (422, "invalid-request", {"json": a_stay(roomId="1")}, {"pointer": "#/roomId"}),
    (422, "invalid-request", {"json": a_stay(roomId=0)}, {"pointer": "#/roomId"}),
    (422, "invalid-request", {"json": a_stay(roomId=2**63)}, {"pointer": "#/roomId"}),
    (422, "invalid-request", {"json": a_stay(guests=1)}, {"pointer": "#/guests"}),
    (403, "scope-missing", {"json": a_stay(memberId=ANOTHER)}, {}),
    (422, "invalid-request", {"json": a_stay(checkInDate="soon")}, {"pointer": "#/checkInDate"}),
    (422, "invalid-request", {"json": {"roomId": 1}}, {"pointer": "#/checkInDate"}),
    (422, "check-in-past", {"json": a_stay(checkInDate="2026-01-01", checkOutDate="2026-01-02")},
     {"pointer": "#/checkInDate"}),
    (422, "too-far-ahead", {"json": a_stay(checkInDate="2150-01-01", checkOutDate="2150-01-02")},
     {"pointer": "#/checkInDate"}),
    (422, "invalid-stay", {"json": a_stay(checkOutDate=a_stay()["checkInDate"])},
     {"pointer": "#/checkOutDate"}),
    (422, "stay-too-long",
     {"json": a_stay(checkOutDate=(today() + timedelta(days=61)).isoformat())},
     {"pointer": "#/checkOutDate"}),
    (422, "invalid-request", {"json": a_stay(), "headers": {"Idempotency-Key": "k" * 256}},
     {"header": "Idempotency-Key"}),
    (413, "body-too-large", {"content": b" " * 70_000}, {}),
    (415, "unsupported-media-type", {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
     {}),
    (422, "invalid-request", {"method": "GET", "params": {"limit": 0}}, {"parameter": "limit"}),
    (422, "invalid-request", {"method": "GET", "params": {"limit": 101}}, {"parameter": "limit"}),
    (422, "invalid-request", {"method": "GET", "params": {"cursor": "!"}}, {"parameter": "cursor"}),
    (422, "invalid-request", {"method": "GET", "url": "/v1/rooms/1/availability?checkOut=2026-12-24"},
     {"parameter": "checkIn"}),
    (404, "not-found", {"method": "GET", "url": f"{RESERVATIONS}/first"}, {}),
    (404, "not-found", {"method": "GET", "url": f"{RESERVATIONS}/{2**63}"}, {}),
    (404, "not-found", {"method": "GET", "url": "/v2"}, {}),
    (405, "method-not-allowed", {"method": "DELETE"}, {}),
]  # fmt: skip


def test_a_bad_request_is_told_what_is_wrong_with_it(me: httpx.Client, engine: Engine) -> None:
    """One API for all of them, since none changes anything."""
    for status, code, request, fault in BAD_REQUESTS:
        response = me.request(**{"method": "POST", "url": RESERVATIONS} | request)
        assert_problem(response, status, code)
        found = {
            key: value
            for error in response.json().get("errors", [])
            for key, value in error.items()
        }
        assert fault.items() <= found.items(), response.text
    assert count(engine, "reservations.reservation") == 0


def test_a_body_too_large_is_refused_also_when_its_length_is_not_told(me: httpx.Client) -> None:
    response = me.post(RESERVATIONS, content=iter([b" " * 35_000] * 2))

    assert_problem(response, 413, "body-too-large")


def test_a_database_that_is_away_is_503_until_it_is_back(wire: Wire) -> None:
    with an_api(wire.url) as api:
        me = api.member()
        eventually(lambda: me.get("/healthz/ready").status_code == 200)
        wire.cut()
        away = [me.post(RESERVATIONS, json=a_stay()) for _ in range(3)]
        eventually(lambda: me.get("/healthz/ready").status_code == 503)
        still_live = me.get("/healthz/live")
        wire.mend()
        back = me.post(RESERVATIONS, json=a_stay())
        eventually(lambda: me.get("/healthz/ready").status_code == 200)

    for response in away:
        assert_problem(response, 503, "unavailable")
        assert response.headers["Retry-After"] == "1"
    assert still_live.status_code == 200
    assert back.status_code == 202


def test_it_is_ready_and_reserves_while_kafka_is_away(
    database_url: str, servers: Servers, engine: Engine
) -> None:
    """What is accepted waits in the outbox, and is published when the brokers are back."""
    nobody = "127.0.0.1:1"
    assert nobody not in servers.kafka_bootstrap_servers
    with an_api(database_url, kafka_bootstrap_servers=nobody) as api:
        me = api.member()
        eventually(lambda: me.get("/healthz/ready").status_code == 200)
        response = me.post(RESERVATIONS, json=a_stay())
        ready = me.get("/healthz/ready")

    assert response.status_code == 202
    assert ready.status_code == 200
    [message] = rows(engine, "SELECT topic, value FROM outbox.message")
    assert message["topic"] == "room-reserve"
    assert json.loads(message["value"])["reservationId"] == response.json()["id"]


def test_a_database_that_is_read_only_is_503_for_who_writes_until_it_is_not(
    database_url: str, engine: Engine
) -> None:
    """As after a failover; connections made meanwhile are not kept."""
    with ExitStack() as stack:
        with read_only(engine):
            me = stack.enter_context(an_api(database_url)).member()
            refused = me.post(RESERVATIONS, json=a_stay())
            seen = me.get(RESERVATIONS)
            again = me.post(RESERVATIONS, json=a_stay())
        first, second = (me.post(RESERVATIONS, json=a_stay()) for _ in range(2))

    for response in (refused, again):
        assert_problem(response, 503, "unavailable")
        assert response.headers["Retry-After"] == "1"
    assert seen.status_code == 200
    # The connection that the second refusal came on is gone; one of the reader's may be left.
    assert (first.status_code, second.status_code) in {(202, 202), (503, 202)}


def test_a_database_that_restarted_fails_one_request_at_most(api: Api, engine: Engine) -> None:
    me = api.member()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: me.get(RESERVATIONS), range(40)))
    with engine.connect() as connection:
        connection.execute(
            text("""
                SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                WHERE application_name = 'innbox-api' AND datname = current_database()
            """)
        )

    failed = [me.get(RESERVATIONS).status_code == 503 for _ in range(10)]
    assert sum(failed) <= 1


def test_an_exhausted_pool_is_503_and_not_a_queue(database_url: str, engine: Engine) -> None:
    with (
        an_api(database_url, pool_size=1, pool_timeout_s=0.5) as api,
        ThreadPoolExecutor(1) as threads,
    ):
        me = api.member()
        eventually(lambda: me.get("/healthz/ready").status_code == 200)

        def sooner_or_later(path: str, **body: Any) -> httpx.Response:
            """Whoever else has the one connection, even if only to look whether it is there."""
            answers: list[httpx.Response] = []

            def is_accepted() -> bool:
                answers.append(me.post(path, **body))
                return answers[-1].status_code == 202

            eventually(is_accepted)
            return answers[-1]

        location = sooner_or_later(RESERVATIONS, json=a_stay()).headers["Location"]
        with engine.begin() as connection:
            connection.execute(text("SELECT FROM reservations.reservation FOR UPDATE"))
            blocked = threads.submit(sooner_or_later, f"{location}/cancellation")
            eventually(lambda: me.post(f"{location}/cancellation").status_code == 503)
            read = me.get(location)
            ready = me.get("/healthz/ready")

    assert blocked.result().status_code == 202
    assert read.status_code == 200, "readers have a pool of their own"
    assert ready.status_code == 200


def test_the_callers_trace_goes_on_into_the_outbox(me: httpx.Client, engine: Engine) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    response = me.post(RESERVATIONS, json=a_stay(), headers={"traceparent": trace})
    begun = me.post(f"{response.headers['Location']}/cancellation", headers={"traceparent": "00-x"})

    headers = [
        row["headers"]
        for row in rows(engine, "SELECT headers FROM outbox.message ORDER BY position")
    ]
    assert [one["traceparent"] for one in headers] == [trace, begun.headers["traceparent"]]
    assert response.headers["traceparent"] == trace
    assert begun.headers["traceparent"] != "00-x"


def test_requests_are_counted_by_route_method_and_status(me: httpx.Client) -> None:
    me.get(f"{RESERVATIONS}/999999")
    me.get("/nowhere")

    counted = me.get("/metrics").text
    prefix = "innbox_http_request_seconds_count"
    assert (
        f'{prefix}{{method="GET",route="{RESERVATIONS}/{{reservation_id}}",status="404"}}'
        in counted
    )
    assert f'{prefix}{{method="GET",route="none",status="404"}}' in counted


def test_the_schema_names_every_operation(api: Api) -> None:
    schema = api.client({}).get("/schema").json()

    operations = [one for path in schema["paths"].values() for one in path.values()]
    assert {one["operationId"] for one in operations} == {
        "reserve", "listReservations", "getReservation", "getHistory", "followReservation",
        "cancelReservation", "listRooms", "getRoom", "nameRoom", "getCalendar", "setNights",
        "getAvailability", "searchRooms", "loadInventory", "getOperations", "listProblems",
        "getProblem",
    }  # fmt: skip


def test_a_process_logs_what_went_wrong_and_ends_in_order_on_sigterm(
    database_url: str, engine: Engine
) -> None:
    refuse_commits(engine)
    with an_api_process(database_url) as (process, url):
        for _ in range(3):
            hang_up_amid_an_answer(url)
        response = httpx.post(
            url + RESERVATIONS, json=a_stay(), headers=bearer(database_url), timeout=30
        )
        process.send_signal(signal.SIGTERM)
        logged = [json.loads(line) for line in process.stderr or ()]
        process.wait()

    assert process.returncode == 0
    [error] = [line for line in logged if line["level"] == "error"]
    assert error["trace_id"] == response.json()["traceId"]
    assert "no commit today" in error["exception"]
    assert [line["event"] for line in logged if line["level"] == "info"] == ["stopping"]


def hang_up_amid_an_answer(url: str) -> None:
    """Ask for much, read a byte, and reset the connection: that is not worth a line of the log."""
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.sendall(b"GET /schema/openapi.json HTTP/1.1\r\nHost: inn\r\n\r\n" * 40)
        assert caller.recv(1)


def bearer(database_url: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign(some_settings(database_url), ME)}"}


def rows(engine: Engine, query: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query)).mappings()]


def refuse_commits(engine: Engine) -> None:
    """Make the database refuse at the commit, when all has been written."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'no commit today'; END $$
            """)
        )
        connection.execute(
            text("""
                CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON reservations.reservation
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
            """)
        )


def availability(client: httpx.Client, check_in: Any, check_out: Any) -> Any:
    asked = {"checkIn": check_in.isoformat(), "checkOut": check_out.isoformat()}
    return client.get("/v1/rooms/1/availability", params=asked).json()


def without_occurrence(response: httpx.Response) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    return {key: value for key, value in problem.items() if key not in {"instance", "traceId"}}
