"""`Prefer: wait`: answered when the saga ends, and cheap until then."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import httpx
import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from api.requests.conditions import wait_s
from api.reservations import watchers
from api.reservations.watchers import ReservationWatchers, Subscription
from domain.answers import Answer
from domain.reservations.model import Reservation, Status
from domain.stay import Stay
from tests.support.api_client import ME, Api, a_stay, an_api, today
from tests.support.notify_only_api import an_api_that_only_listens, listener, ring, settled
from tests.support.waiting import DEADLINE_S, eventually

WAIT_S = 30


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def test_who_waits_is_answered_as_soon_as_the_rooms_have_answered(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        listener(engine)
        ring(engine, settled(engine, reservation_id))
        response = waiter.result()

    assert response.status_code == 200
    assert response.json()["status"] == "CONFIRMED"
    assert response.headers["Preference-Applied"] == "wait=30"


def test_a_cancellation_can_be_waited_for_too(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ring for another change of the reservation does not end the wait."""
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        location = api.member().post("/v1/reservations", json=a_stay()).headers["Location"]
        [reservation_id] = waited_for(engine, 1)
        waiter = threads.submit(
            api.member().post, f"{location}/cancellation", headers={"Prefer": "wait=30"}
        )
        waited_for(engine, 1, Status.CANCELLING)
        listener(engine)
        ring(engine, reservation_id)
        ring(engine, settled(engine, reservation_id, Answer.CANCEL))
        response = waiter.result()

    assert (response.status_code, response.json()["status"]) == (200, "CANCELLED")


def test_who_has_waited_long_enough_is_told_how_things_stand(database_url: str) -> None:
    with an_api(database_url, wait_s_max=0.2) as api:
        response = api.member().post(
            "/v1/reservations", json=a_stay(), headers={"Prefer": "wait=60"}
        )

    assert (response.status_code, response.json()["status"]) == (202, "PENDING")
    assert response.headers["Preference-Applied"] == "wait=0.2"
    assert response.elapsed.total_seconds() >= 0.2


def test_a_repeated_request_waits_for_its_reservation(database_url: str, engine: Engine) -> None:
    with an_api(database_url) as api:
        key = {"Idempotency-Key": "once"}
        first = api.member().post("/v1/reservations", json=a_stay(), headers=key)
        settled(engine, first.json()["id"])
        again = api.member().post(
            "/v1/reservations", json=a_stay(), headers=key | {"Prefer": "wait=30"}
        )

    assert (again.status_code, again.json()["status"]) == (200, "CONFIRMED")
    assert again.headers["Idempotency-Replayed"] == "true"


def test_waiting_takes_neither_a_connection_nor_a_thread(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one connection twenty wait, another member is served, and all twenty are answered."""
    with an_api_that_only_listens(database_url, monkeypatch, pool_size=1) as api:
        watchers = [reserve_and_wait(threads, api) for _ in range(20)]
        ids = waited_for(engine, 20)
        other = api.member().get("/v1/reservations", params={"limit": 1})
        listener(engine)
        ring(engine, *[settled(engine, id_) for id_ in ids])
        responses = [waiter.result() for waiter in watchers]

    assert other.status_code == 200
    assert {response.json()["status"] for response in responses} == {"CONFIRMED"}
    assert sorted(response.json()["id"] for response in responses) == ids


def test_a_ring_that_nobody_heard_is_made_good_by_the_poll(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchers, "POLL_S", 0.05)
    with an_api(database_url) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        settled(engine, reservation_id)
        response = waiter.result()

    assert response.status_code == 200


def test_the_poll_outlasts_a_database_that_answers_with_errors(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one whose migration is under way: nobody waits in vain for good."""
    monkeypatch.setattr(watchers, "POLL_S", 0.05)
    failed: list[Exception] = []
    asleep: list[Subscription] = []
    look, hear = ReservationWatchers.poll_once, Subscription.heard

    async def poll_once(watchers: ReservationWatchers) -> None:
        try:
            await look(watchers)
        except ProgrammingError as error:
            failed.append(error)
            raise

    async def heard(watch: Subscription, deadline: float) -> bool:
        if not watch.rung.is_set():  # or it would read once more, of a table that is gone
            asleep.append(watch)
        return await hear(watch, deadline)

    monkeypatch.setattr(ReservationWatchers, "poll_once", poll_once)
    monkeypatch.setattr(Subscription, "heard", heard)
    with an_api(database_url) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        eventually(lambda: asleep)
        rename(engine, "reservation", "unmigrated")
        eventually(lambda: len(failed) > 1)
        rename(engine, "unmigrated", "reservation")
        settled(engine, reservation_id)
        response = waiter.result()

    assert response.status_code == 200


def rename(engine: Engine, table: str, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE reservations.{table} RENAME TO {name}"))


@pytest.mark.parametrize("named", [True, False], ids=["a named reservation", "nobody named"])
def test_a_lost_connection_is_made_again_and_heard(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """An empty payload has everybody looked after."""
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        first = listener(engine)
        terminate(engine, first)
        listener(engine, other_than=first)
        settled(engine, reservation_id)
        ring(engine, *([reservation_id] if named else []))
        response = waiter.result()

    assert response.status_code == 200


def test_what_was_rung_while_nobody_listened_is_looked_up_afterwards(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        first = listener(engine)
        settled(engine, reservation_id)
        terminate(engine, first)
        response = waiter.result()

    assert response.status_code == 200, "or else 202, when it has waited long enough"


def test_who_waits_is_sent_home_when_the_process_stops(
    database_url: str, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    with an_api(database_url) as api:
        waiter = reserve_and_wait(threads, api)
        waited_for(engine, 1)
        api.stop.set()
        response = waiter.result()

    # Whoever is still there at the end of a graceful stop is cut off, with 500.
    assert api.settings.shutdown_s < WAIT_S
    assert (response.status_code, response.json()["status"]) == (202, "PENDING")


def test_a_look_that_nobody_waits_for_any_more_still_gives_its_connection_back(
    database_url: str, engine: Engine, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that is gone by then would leave it open."""
    looking, disposed, left_open = Event(), Event(), Event()

    def look(watchers: ReservationWatchers, _ids: list[int]) -> dict[int, int]:
        with watchers._engine.connect():
            looking.set()
            if disposed.wait(0.5):
                left_open.set()
        return {}

    def dispose(_engine: Engine) -> None:
        disposed.set()

    monkeypatch.setattr(watchers, "POLL_S", 0.0)
    monkeypatch.setattr(ReservationWatchers, "_versions", look)
    event.listen(Engine, "engine_disposed", dispose)
    try:
        with an_api(database_url) as api:
            waiter = reserve_and_wait(threads, api)
            waited_for(engine, 1)
            assert looking.wait(DEADLINE_S)
            api.stop.set()
            assert waiter.result().status_code == 202
    finally:
        event.remove(Engine, "engine_disposed", dispose)
    assert disposed.is_set()
    assert not left_open.is_set()


@pytest.mark.unit
def test_a_ring_between_reading_and_waiting_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = a_reservation()
    confirmed = replace(pending, status=Status.CONFIRMED)

    async def scenario() -> Reservation | None:
        watchers, loop = (
            ReservationWatchers(create_engine("postgresql+psycopg://")),
            asyncio.get_running_loop(),
        )
        answers = iter([pending, confirmed])

        def read(_self: ReservationWatchers, reservation_id: int) -> Reservation:
            loop.call_soon_threadsafe(watchers.wake, [reservation_id])
            return next(answers)

        monkeypatch.setattr(ReservationWatchers, "_read", read)
        return await watchers.ended(pending.id, wait_s=30)

    assert asyncio.run(scenario()) == confirmed


@pytest.mark.unit
def test_a_database_that_goes_away_meanwhile_takes_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None has the handler answer what was accepted."""

    def read(_self: ReservationWatchers, _reservation_id: int) -> Reservation:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(ReservationWatchers, "_read", read)
    watchers = ReservationWatchers(create_engine("postgresql+psycopg://"))
    assert asyncio.run(watchers.ended(1, wait_s=30)) is None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=5", 5),
        ('WAIT = "5"; strict', 5),
        ("wait=0", 0),
        ("wait=99999", 30),
        ("wait=soon", None),
        ("wait=-1", None),
        ("await=5", None),
        ("handling=lenient", None),
        (None, None),
    ],
)
def test_only_a_preference_to_wait_is_taken_for_one(
    prefer: str | None, seconds: float | None
) -> None:
    assert wait_s(prefer, wait_s_max=30) == seconds


def reserve_and_wait(threads: ThreadPoolExecutor, api: Api) -> "Future[httpx.Response]":
    return threads.submit(
        api.member(ME).post, "/v1/reservations", json=a_stay(), headers={"Prefer": f"wait={WAIT_S}"}
    )


def waited_for(engine: Engine, count: int, status: Status = Status.PENDING) -> list[int]:
    """Return the open reservations once there are so many."""
    found: list[int] = []

    def there_are() -> bool:
        with engine.connect() as connection:
            query = text(
                "SELECT id FROM reservations.reservation WHERE status = :status ORDER BY id"
            )
            found[:] = connection.scalars(query, {"status": status.value})
        return len(found) == count

    eventually(there_are)
    return found


def terminate(engine: Engine, pid: int) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


def a_reservation() -> Reservation:
    now = datetime.now(UTC)
    stay = Stay(today(), today() + timedelta(days=1))
    return Reservation(1, ME, 1, stay, Status.PENDING, None, 1, now, now)
