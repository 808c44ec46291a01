"""`Prefer: wait`: answered when the saga ends, and cheap until then."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from api.requests.conditions import wait_s
from api.reservations import listening
from api.reservations.watchers import RecentIds, ReservationWatchers, Subscription
from domain.answers import Answer
from domain.reservations.model import ROOMS, Cause, Reservation, Status, Transition
from tests.support.api_client import ME, Api, Wire, a_stay, an_api
from tests.support.costs import note_reads, note_tasks_of_threads, note_waits, sessions
from tests.support.notify_only_api import (
    an_api_that_only_listens,
    apply_answer,
    listener,
    ring,
    settled,
)
from tests.support.waiting import eventually

WAIT_S = 30


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The round trips that are made for those who wait: the reservations of each."""
    return note_reads(monkeypatch)


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


@pytest.mark.parametrize("seconds", [30, 0])
def test_a_repeated_request_is_told_at_once_what_has_come_since_the_first(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Nobody rings and nobody polls."""
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        key = {"Idempotency-Key": "once"}
        first = api.member().post("/v1/reservations", json=a_stay(), headers=key)
        settled(engine, first.json()["id"])
        again = api.member().post(
            "/v1/reservations", json=a_stay(), headers=key | {"Prefer": f"wait={seconds}"}
        )
        now = api.member().get(again.headers["Location"])

    assert (again.status_code, again.json()["status"]) == (200, "CONFIRMED")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.json(), again.headers["ETag"]) == (now.json(), now.headers["ETag"])


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
    monkeypatch.setattr(listening, "POLL_S", 0.05)
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
    monkeypatch.setattr(listening, "POLL_S", 0.05)
    failed: list[Exception] = []
    look = ReservationWatchers.poll_once

    async def poll_once(watchers: ReservationWatchers) -> None:
        try:
            await look(watchers)
        except ProgrammingError as error:
            failed.append(error)
            raise

    monkeypatch.setattr(ReservationWatchers, "poll_once", poll_once)
    with an_api(database_url) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        rename(engine, "transition", "unmigrated")
        eventually(lambda: len(failed) > 1)
        rename(engine, "unmigrated", "transition")
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


def test_a_read_that_nobody_waits_for_any_more_leaves_no_connection_open(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    reads: list[set[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        listener(engine)
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        with locked(engine):
            ring(engine, reservation_id)
            eventually(lambda: reads)
            api.stop.set()
            response = waiter.result()
        eventually(lambda: sessions(engine) == 0)

    assert (response.status_code, response.json()["status"]) == (202, "PENDING")


def test_who_waits_reads_nothing_and_all_who_are_woken_together_share_a_read(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    reads: list[set[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = note_waits(monkeypatch)
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        listener(engine)
        waiters = [reserve_and_wait(threads, api) for _ in range(20)]
        eventually(lambda: len(waits) == 20)
        ids = waited_for(engine, 20)
        for id_ in ids:
            settled(engine, id_)
        assert reads == []
        ring(engine, *ids)
        responses = [waiter.result() for waiter in waiters]

    assert {response.json()["status"] for response in responses} == {"CONFIRMED"}
    assert reads == [set(ids)]


def test_who_is_woken_during_a_read_is_in_the_next(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    reads: list[set[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And so is who was in the first, but has not found what the second ring was for."""
    waits = note_waits(monkeypatch)
    heard: list[str] = []
    hear = ReservationWatchers.hear

    def hear_and_note(watchers: ReservationWatchers, payload: str) -> None:
        hear(watchers, payload)
        heard.append(payload)

    monkeypatch.setattr(ReservationWatchers, "hear", hear_and_note)
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        listener(engine)
        waiters = [reserve_and_wait(threads, api) for _ in range(3)]
        eventually(lambda: len(waits) == 3)
        ids = waited_for(engine, 3)
        with locked(engine) as connection:
            ring(engine, ids[0])
            eventually(lambda: reads)
            for id_ in ids:
                apply_answer(connection, id_)
            for id_ in ids:
                ring(engine, id_)
            eventually(lambda: len(heard) == 4)
        assert {waiter.result().json()["status"] for waiter in waiters} == {"CONFIRMED"}

    assert reads[0] == {ids[0]}
    assert set(ids[1:]) <= reads[1]
    assert len(reads) == 2


def test_an_answer_that_is_heard_before_the_wait_begins_is_not_missed(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rooms may be quicker than the API is with its own answer."""
    ended = ReservationWatchers.ended

    async def late(
        watchers: ReservationWatchers, known: Reservation, wait_s: float, *, is_current: bool
    ) -> Reservation:
        await asyncio.to_thread(lambda: ring(engine, settled(engine, known.id)))
        await asyncio.to_thread(eventually, lambda: known.id in watchers._recent)
        return await ended(watchers, known, wait_s, is_current=is_current)

    monkeypatch.setattr(ReservationWatchers, "ended", late)
    with an_api_that_only_listens(database_url, monkeypatch) as api:
        listener(engine)
        response = api.member().post(
            "/v1/reservations", json=a_stay(), headers={"Prefer": f"wait={WAIT_S}"}
        )

    assert (response.status_code, response.json()["status"]) == (200, "CONFIRMED")


def test_to_wait_and_to_be_woken_uses_no_thread(
    database_url: str,
    engine: Engine,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for what is done once: to open the connections, and to read what the topics take."""
    tasks = note_tasks_of_threads(monkeypatch)
    with an_api_that_only_listens(database_url, monkeypatch, pool_size=1) as api:
        listener(engine)
        for turn in range(2):
            waiters = [reserve_and_wait(threads, api) for _ in range(10)]
            ids = waited_for(engine, 10)
            if turn:
                tasks.clear()
            ring(engine, *[settled(engine, id_) for id_ in ids])
            assert {waiter.result().status_code for waiter in waiters} == {200}

    assert tasks == []


def test_who_waits_outlasts_a_database_that_goes_away(
    database_url: str, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    with closing(Wire(database_url)) as wire, an_api(wire.url, pool_timeout_s=0.5) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        wire.cut()
        eventually(lambda: api.member().get("/healthz/ready").status_code == 503)
        settled(engine, reservation_id)
        assert not waiter.done()
        wire.mend()
        response = waiter.result()

    assert (response.status_code, response.json()["status"]) == (200, "CONFIRMED")


def test_a_database_that_goes_away_meanwhile_takes_nothing_back(
    database_url: str, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    """What was accepted is answered, in time."""
    with closing(Wire(database_url)) as wire, an_api(wire.url, wait_s_max=3.0) as api:
        waiter = reserve_and_wait(threads, api)
        [reservation_id] = waited_for(engine, 1)
        wire.cut()
        ring(engine, settled(engine, reservation_id))
        response = waiter.result()

    assert (response.status_code, response.json()["status"]) == (202, "PENDING")
    assert 3 <= response.elapsed.total_seconds() < 6


@pytest.mark.unit
def test_a_transition_is_passed_on_once_and_in_order() -> None:
    """Whichever of two reads that overlap is answered first."""
    told = Subscription(1, seen=1)
    for version in (2, 3, 2, 3, 4):
        told.tell(a_transition(version))
    assert [one.version for one in told.take()] == [2, 3, 4]
    assert told.take() == []


@pytest.mark.unit
def test_the_newest_ids_are_remembered_and_only_so_many() -> None:
    recent = RecentIds(most=10)
    recent.add([1])
    recent.turn()
    assert 1 in recent
    recent.turn()
    assert 1 not in recent

    for id_ in range(100):
        recent.add([id_])
    kept = [id_ for id_ in range(100) if id_ in recent]
    assert kept[-10:] == list(range(90, 100))
    assert len(kept) <= 22


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


@contextmanager
def locked(engine: Engine) -> Iterator[Connection]:
    """Let nobody read the history of reservations for the length of a block."""
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE reservations.transition IN ACCESS EXCLUSIVE MODE"))
        yield connection


def a_transition(version: int) -> Transition:
    return Transition(1, version, Status.PENDING, None, datetime.now(UTC), Cause(uuid4(), ROOMS))
