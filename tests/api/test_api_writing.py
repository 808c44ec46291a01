"""Writing over HTTP: how much a member may have pending, who acts for whom, which version is meant."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from litestar.routes import HTTPRoute
from sqlalchemy import Engine, text

from api.app import create_app
from api.identity.scopes import READ, STAFF, WRITE
from domain.idempotency import RESERVATION_KEYS, Claimed, KeyedRequest
from ops.topics import declare
from outbox import reader
from tests.support.api_client import (
    ANOTHER,
    ME,
    RESERVATIONS,
    Api,
    a_stay,
    an_api,
    count,
    some_settings,
)
from tests.support.waiting import DEADLINE_S, eventually

PENDING_MAX = 3
CLERK = 99
ONCE = KeyedRequest(ME, "once", bytes(32))


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with an_api(
        database_url, pending_per_member_max=PENDING_MAX, requests_burst_max=1_000
    ) as running:
        yield running


@pytest.fixture
def clerk(api: Api) -> httpx.Client:
    return api.member(CLERK, READ, WRITE, STAFF)


def reserve(client: httpx.Client, key: str | None = None, **changes: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(RESERVATIONS, json=a_stay(**changes), headers=headers)


def cancel(client: httpx.Client, location: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"{location}/cancellation", headers=named)


def code(response: httpx.Response) -> str:
    return str(response.json()["type"]).removeprefix("/problems/")


def actors(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT actor FROM reservations.transition ORDER BY 1"))
        return list(found.scalars())


# How much may be pending.


def test_what_waits_for_an_answer_is_bounded_for_each_member(api: Api, engine: Engine) -> None:
    me, another = api.member(ME), api.member(ANOTHER)
    accepted = [reserve(me) for _ in range(PENDING_MAX)]

    one_more, of_another = reserve(me), reserve(another)

    assert {response.status_code for response in accepted} == {202}
    assert (one_more.status_code, code(one_more)) == (409, "too-many-pending")
    assert of_another.status_code == 202
    assert count(engine, "reservations.reservation") == PENDING_MAX + 1
    assert count(engine, "outbox.message") == PENDING_MAX + 1


def test_what_was_answered_makes_room(me: httpx.Client, engine: Engine) -> None:
    for _ in range(PENDING_MAX):
        reserve(me)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE reservations.reservation SET status = 'CONFIRMED' WHERE id = 1")
        )

    assert [reserve(me).status_code for _ in range(2)] == [202, 409]


@pytest.mark.parametrize("key", ["key-{}", None])
def test_requests_at_the_same_time_do_not_pass_the_bound(
    me: httpx.Client, engine: Engine, key: str | None
) -> None:
    """Exactly as many as may be, however they come."""
    with ThreadPoolExecutor(16) as threads:
        responses = list(
            threads.map(lambda number: reserve(me, key and key.format(number)), range(48))
        )

    assert sorted(response.status_code for response in responses) == [202] * 3 + [409] * 45
    assert count(engine, "reservations.reservation") == PENDING_MAX
    assert count(engine, "reservations.idempotency_key") == (PENDING_MAX if key else 0)


def test_a_repeat_is_answered_as_before_at_the_bound_too(me: httpx.Client) -> None:
    first = reserve(me, "first")
    for number in range(PENDING_MAX):
        reserve(me, f"filling-{number}")

    again, other = reserve(me, "first"), reserve(me, "first", roomId=2)

    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.json() == first.json()
    assert (other.status_code, code(other)) == (422, "idempotency-key-reused")


def test_a_refused_key_may_be_tried_again(me: httpx.Client, engine: Engine) -> None:
    for _ in range(PENDING_MAX):
        reserve(me)
    refused = reserve(me, "later")
    with engine.begin() as connection:
        connection.execute(text("UPDATE reservations.reservation SET status = 'CONFIRMED'"))

    accepted = reserve(me, "later")

    assert (refused.status_code, accepted.status_code) == (409, 202)
    assert "Idempotency-Replayed" not in accepted.headers


# Keys.


def test_a_key_in_quotes_is_the_bare_key(me: httpx.Client, engine: Engine) -> None:
    bare, quoted = reserve(me, "once"), reserve(me, '"once"')

    assert bare.json() == quoted.json()
    assert quoted.headers["Idempotency-Replayed"] == "true"
    assert count(engine, "reservations.reservation") == 1


def test_a_key_that_is_no_string_is_pointed_at(me: httpx.Client) -> None:
    refused = reserve(me, '"once')

    assert (refused.status_code, code(refused)) == (422, "invalid-request")
    assert refused.json()["errors"][0]["header"] == "Idempotency-Key"


def test_the_first_request_of_a_key_is_not_waited_for(me: httpx.Client, engine: Engine) -> None:
    with engine.connect() as connection:
        assert isinstance(RESERVATION_KEYS.claim(connection, ONCE), Claimed)
        during = reserve(me, "once")

    assert (during.status_code, code(during)) == (409, "idempotency-key-in-flight")


@pytest.mark.parametrize("kept", ["reservation_id", "NULL"])
def test_a_repeat_is_answered_as_it_was_then_and_not_as_it_is_now(
    me: httpx.Client, engine: Engine, kept: str
) -> None:
    """Also under the key of a cancellation that an earlier version kept without its reservation."""
    made = reserve(me, "reserve")
    location = made.headers["Location"]
    first = cancel(me, location, Idempotency_Key="cancel")
    with engine.begin() as connection:
        connection.execute(
            text(f"""
                UPDATE reservations.idempotency_key SET reservation_id = {kept}
                WHERE key = 'cancel'
            """)
        )
        connection.execute(
            text("""
                WITH settled AS (
                    UPDATE reservations.reservation
                    SET status = 'CANCELLED', version = 3, updated_at = now() RETURNING id
                )
                INSERT INTO reservations.transition (reservation_id, version, status, message_id)
                SELECT id, 3, 'CANCELLED', gen_random_uuid() FROM settled
            """)
        )
    again = [reserve(me, "reserve"), cancel(me, location, Idempotency_Key="cancel")]

    assert [(one.status_code, one.json()) for one in again] == [
        (202, made.json()),
        (202, first.json()),
    ]
    assert {one.headers["Idempotency-Replayed"] for one in again} == {"true"}
    assert code(reserve(me, "cancel")) == "idempotency-key-reused"
    assert me.get(location).json()["status"] == "CANCELLED"


def test_a_cancellation_that_changed_nothing_is_repeated_with_what_there_is(
    me: httpx.Client,
) -> None:
    location = reserve(me).headers["Location"]
    cancel(me, location)
    first, again = (cancel(me, location, Idempotency_Key="again") for _ in range(2))

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"


def test_of_two_keys_neither_is_believed(me: httpx.Client, engine: Engine) -> None:
    twice = [("Idempotency-Key", "one"), ("Idempotency-Key", "other")]
    refused = me.post(RESERVATIONS, json=a_stay(), headers=twice)

    assert (refused.status_code, code(refused)) == (422, "invalid-request")
    assert refused.json()["errors"][0]["header"] == "Idempotency-Key"
    assert count(engine, "reservations.reservation") == 0


def test_a_list_may_be_written_on_several_lines(me: httpx.Client) -> None:
    """Which is the same as one line with commas, whatever stands first."""
    location = reserve(me).headers["Location"]
    for first, last in (('"7"', '"1"'), ('"1"', '"7"')):
        lines = [("If-None-Match", first), ("If-None-Match", last)]
        assert me.get(location, headers=lines).status_code == 304
    meant = [("If-Match", '"7"'), ("If-Match", '"1"')]
    preferred = [("Prefer", "respond-async"), ("Prefer", "wait=0"), ("Prefer", "return=minimal")]
    cancelled = me.post(f"{location}/cancellation", headers=[*meant, *preferred])
    assert cancelled.status_code == 202
    assert cancelled.headers["Preference-Applied"] == "wait=0"


# Who may act for whom.


def test_the_staff_reserve_for_a_member_whose_it_is_then(
    api: Api, clerk: httpx.Client, engine: Engine
) -> None:
    made = reserve(clerk, "for-ann", memberId=ME)
    again = reserve(clerk, "for-ann", memberId=ME)

    assert made.status_code == 202
    assert made.json() == again.json() == api.member(ME).get(made.headers["Location"]).json()
    assert made.json()["memberId"] == ME
    assert actors(engine) == [f"staff:{CLERK}"]


def test_the_bound_is_that_of_the_member_acted_for(clerk: httpx.Client, me: httpx.Client) -> None:
    for _ in range(PENDING_MAX):
        reserve(clerk, memberId=ME)

    of_me, for_me, for_another = (
        reserve(me),
        reserve(clerk, memberId=ME),
        reserve(clerk, memberId=ANOTHER),
    )

    assert [one.status_code for one in (of_me, for_me, for_another)] == [409, 409, 202]


def test_a_member_reserves_for_nobody_else(me: httpx.Client, engine: Engine) -> None:
    for_another, for_oneself = reserve(me, memberId=ANOTHER), reserve(me, memberId=ME)

    assert (for_another.status_code, code(for_another)) == (403, "scope-missing")
    assert for_oneself.status_code == 202
    assert actors(engine) == [f"member:{ME}"]


def test_the_staff_cancel_anybodys(clerk: httpx.Client, me: httpx.Client, engine: Engine) -> None:
    location = reserve(me).headers["Location"]

    cancelled = cancel(clerk, location)

    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "CANCELLING")
    assert actors(engine) == [f"member:{ME}", f"staff:{CLERK}"]


# Which version is meant.


def test_the_answers_of_posts_name_their_version(me: httpx.Client) -> None:
    made = reserve(me)
    cancelled = cancel(me, made.headers["Location"])

    assert (made.headers["ETag"], cancelled.headers["ETag"]) == ('"1"', '"2"')


@pytest.mark.parametrize("meant", ['"1"', "*", '"7", "1"', None])
def test_the_version_that_is_meant_is_cancelled(me: httpx.Client, meant: str | None) -> None:
    location = reserve(me).headers["Location"]

    response = cancel(me, location, **({} if meant is None else {"If_Match": meant}))

    assert response.status_code == 202


@pytest.mark.parametrize("meant", ['"2"', 'W/"1"', "1", '"1', "", '"2", W/"1"'])
def test_another_version_is_not_cancelled(me: httpx.Client, engine: Engine, meant: str) -> None:
    location = reserve(me).headers["Location"]

    refused = cancel(me, location, If_Match=meant, Idempotency_Key="cancel")

    assert (refused.status_code, code(refused)) == (412, "precondition-failed")
    assert me.get(location).json()["status"] == "PENDING"
    assert count(engine, "reservations.idempotency_key") == 0


def test_of_two_who_mean_the_same_version_one_cancels(me: httpx.Client) -> None:
    location = reserve(me).headers["Location"]

    with ThreadPoolExecutor(2) as threads:
        responses = list(threads.map(lambda _: cancel(me, location, If_Match='"1"'), range(2)))

    assert sorted(response.status_code for response in responses) == [202, 412]


# The doorbell.


def test_the_relay_is_rung_for_and_however_many_come_few_rings_are_sent(
    database_url: str, engine: Engine
) -> None:
    listening = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    interval_s = 0.2
    with an_api(database_url, doorbell_ms=1000 * interval_s) as api, listening as listener:
        reader.listen(listener)
        begun_at = time.monotonic()
        reserve(api.member(ME))
        assert reader.wait_for_notify(listener, DEADLINE_S), "the first at once"
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: reserve(api.member(number + 1)), range(8, 48)))
        lasted_s = time.monotonic() - begun_at
        assert reader.wait_for_notify(listener, DEADLINE_S), "and once more for all of the others"
        driver = listener.connection.driver_connection
        assert driver is not None
        assert 2 + len(list(driver.notifies(timeout=0.5))) <= 3 + lasted_s / interval_s


def test_a_bell_whose_connection_was_cut_rings_again(database_url: str, engine: Engine) -> None:
    listening = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with an_api(database_url) as api, listening as listener:
        reader.listen(listener)
        reserve(api.member(ME))
        assert reader.wait_for_notify(listener, DEADLINE_S)
        listener.execute(
            text("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'innbox-api' AND datname = current_database()
            """)
        )
        eventually(lambda: reserve(api.member(ME)).status_code == 202)
        eventually(
            lambda: reserve(api.member(ANOTHER)).is_success and reader.wait_for_notify(listener, 2)
        )


# The topics.


def test_an_undeclared_topic_is_looked_up_beside_the_event_loop(api: Api, engine: Engine) -> None:
    """A thread waits for the database, and one look-up does for all requests that come meanwhile."""
    me = api.member(ME)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outbox.topic"))
    with an_api(api.settings.database_url) as other, ThreadPoolExecutor(8) as threads:
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE outbox.topic IN ACCESS EXCLUSIVE MODE"))
            waiting = [threads.submit(reserve, other.member(ME)) for _ in range(8)]
            eventually(lambda: sessions_waiting(engine) > 0)
            assert other.client({}).get("/healthz/live").status_code == 200
            assert sessions_waiting(engine) == 1
            assert not any(one.done() for one in waiting)
        assert {one.result().status_code for one in waiting} == {503}
        declare(api.settings)
        assert reserve(other.member(ME)).status_code == 202, "at once, when it is declared"
    assert reserve(me).status_code == 202


def sessions_waiting(engine: Engine) -> int:
    """Count those of requests; the API's probe waits, too."""
    waiting = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'innbox-api' AND datname = current_database()
          AND wait_event_type = 'Lock'
    """)
    with engine.connect() as connection:
        return connection.scalar(waiting) or 0


# What a request costs before its handler.


@pytest.mark.unit
def test_a_request_passes_one_guard() -> None:
    """Litestar copies the route's handler for each of them."""
    app = create_app(some_settings("postgresql+psycopg://nobody"))
    for route in app.routes:
        if isinstance(route, HTTPRoute) and route.path.startswith("/v1"):
            handlers = [one for one, _ in route.route_handler_map.values()]
            assert {len(list(one.resolve_guards())) for one in handlers} <= {0, 1}, route.path
    [reserving] = [one for one in app.routes if one.path == RESERVATIONS]
    assert isinstance(reserving, HTTPRoute)
    assert len(list(reserving.route_handler_map["POST"][0].resolve_guards())) == 1
