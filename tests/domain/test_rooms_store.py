"""Rooms in a real Postgres: what is locked, what is written, and who waits for whom."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, timedelta
from time import monotonic
from uuid import UUID

import pytest
from psycopg.errors import CheckViolation
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError

from domain.answers import Answer, ReasonCode, RequestKind, RoomRequest
from domain.rooms import calendar, store
from domain.rooms.calendar import lock_nights
from domain.rooms.change import (
    BelowTaken,
    Change,
    Changed,
    InvalidRange,
    NightsSet,
    WithoutCapacity,
)
from domain.rooms.model import Outcome, State, decide
from domain.rooms.nights import NightKey, RoomNight
from domain.stay import Stay
from tests.support.saga import set_nights

EVE = date(2026, 12, 24)
NEW_YEAR = date(2027, 1, 1)
CHRISTMAS = Stay(EVE, date(2026, 12, 27))
ALPINE, SEASIDE = 7, 8
DEADLINE_S = 10


def a_reserve(
    reservation_id: int = 1, message: int = 1, *, room_id: int = ALPINE, stay: Stay = CHRISTMAS
) -> RoomRequest:
    return RoomRequest(RequestKind.RESERVE, reservation_id, room_id, stay, UUID(int=message))


def a_cancel(reservation_id: int = 1, message: int = 2) -> RoomRequest:
    return RoomRequest(RequestKind.CANCEL, reservation_id, ALPINE, CHRISTMAS, UUID(int=message))


def open_rooms(engine: Engine, capacity: int = 2) -> None:
    with engine.begin() as connection:
        for room_id in (ALPINE, SEASIDE):
            assert set_nights(connection, room_id, EVE, NEW_YEAR, capacity) == NightsSet(8)


def apply(connection: Connection, requests: Sequence[RoomRequest]) -> Outcome:
    outcome = decide(store.lock(connection, requests), requests)
    store.save(connection, outcome)
    return outcome


def arrive(engine: Engine, *requests: RoomRequest) -> list[Answer]:
    with engine.begin() as connection:
        return [result.answer for result in apply(connection, requests).results]


def taken(engine: Engine, room_id: int = ALPINE) -> dict[date, int]:
    with engine.connect() as connection:
        opened = calendar.opened_nights(connection, room_id, EVE, NEW_YEAR)
    return {night.on: night.taken for night in opened if night.taken}


def wait_until_blocked(engine: Engine, waiting: int = 1) -> None:
    """Return as soon as so many transactions of this database wait for another's lock."""
    blocked = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """)
    end = monotonic() + DEADLINE_S
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.scalar(blocked) != waiting:
            assert monotonic() < end, f"{waiting} were to wait"


def test_a_reserve_holds_its_nights_and_a_cancel_gives_them_back(engine: Engine) -> None:
    open_rooms(engine)

    assert arrive(engine, a_reserve()) == [Answer.SUCCESS]
    assert taken(engine) == dict.fromkeys(CHRISTMAS.nights, 1)

    assert arrive(engine, a_cancel()) == [Answer.CANCEL]
    assert taken(engine) == {}


def test_an_allocation_comes_back_as_it_was_saved(engine: Engine) -> None:
    open_rooms(engine)
    batch = [a_reserve(1), a_reserve(2, room_id=99), a_cancel(3), a_reserve(4)]
    with engine.begin() as connection:
        outcome = apply(connection, batch)

    with engine.begin() as connection:
        locked = store.lock(connection, batch)
        assert [locked.allocations[id_] for id_ in (1, 2, 3, 4)] == list(outcome.created)


def test_redelivery_of_a_batch_changes_nothing(engine: Engine) -> None:
    open_rooms(engine)
    batch = [a_reserve(1), a_reserve(2), a_reserve(3)]

    assert arrive(engine, *batch) == [Answer.SUCCESS, Answer.SUCCESS, Answer.FAILURE]
    assert arrive(engine, *batch) == []
    assert taken(engine) == dict.fromkeys(CHRISTMAS.nights, 2)


def test_a_reserve_and_its_cancel_may_share_a_batch(engine: Engine) -> None:
    open_rooms(engine)

    assert arrive(engine, a_reserve(), a_cancel()) == [Answer.SUCCESS, Answer.CANCEL]
    assert arrive(engine, a_reserve(message=9)) == [Answer.CANCEL]
    assert taken(engine) == {}


def test_a_closed_night_and_an_unknown_room_are_told_apart(engine: Engine) -> None:
    open_rooms(engine)
    summer = Stay(date(2027, 7, 1), date(2027, 7, 2))
    requests = [a_reserve(1, stay=summer), a_reserve(2, room_id=99)]

    with engine.begin() as connection:
        messages = [result.message for result in apply(connection, requests).results]

    assert messages == [
        "NIGHT_NOT_OPEN: not open for reservation on 2027-07-01",
        "UNKNOWN_ROOM: there is no such room",
    ]


def test_the_last_room_goes_to_one_of_two_batches(engine: Engine) -> None:
    """The second waits for the night, and then sees that it is taken."""
    open_rooms(engine, capacity=1)
    with ThreadPoolExecutor(1) as pool, engine.begin() as first:
        apply(first, [a_reserve(1)])
        second = pool.submit(arrive, engine, a_reserve(2))
        wait_until_blocked(engine)
        first.commit()

        assert second.result(DEADLINE_S) == [Answer.FAILURE]

    assert taken(engine) == dict.fromkeys(CHRISTMAS.nights, 1)


def test_a_cancel_beside_its_uncommitted_reserve_is_decided_again(engine: Engine) -> None:
    """Two topics, two processes: a tombstone must not hide what the other one holds."""
    open_rooms(engine)
    with ThreadPoolExecutor(1) as pool, engine.begin() as reserving:
        apply(reserving, [a_reserve()])
        cancelling: Future[list[Answer]] = pool.submit(arrive, engine, a_cancel())
        wait_until_blocked(engine)
        reserving.commit()

        with pytest.raises(store.AllocationRace):
            cancelling.result(DEADLINE_S)

    assert arrive(engine, a_cancel()) == [Answer.CANCEL]
    assert taken(engine) == {}


def test_a_reserve_beside_its_uncommitted_cancel_is_decided_again(engine: Engine) -> None:
    open_rooms(engine)
    with ThreadPoolExecutor(1) as pool, engine.begin() as cancelling:
        apply(cancelling, [a_cancel()])
        reserving: Future[list[Answer]] = pool.submit(arrive, engine, a_reserve())
        wait_until_blocked(engine)
        cancelling.commit()

        with pytest.raises(store.AllocationRace):
            reserving.result(DEADLINE_S)

    assert arrive(engine, a_reserve()) == [Answer.CANCEL]
    assert taken(engine) == {}


def test_nothing_is_decided_again_if_the_other_batch_rolls_back(engine: Engine) -> None:
    open_rooms(engine)
    with ThreadPoolExecutor(1) as pool, engine.begin() as reserving:
        apply(reserving, [a_reserve()])
        cancelling = pool.submit(arrive, engine, a_cancel())
        wait_until_blocked(engine)
        reserving.rollback()

        assert cancelling.result(DEADLINE_S) == [Answer.CANCEL]

    assert taken(engine) == {}


def test_new_allocations_are_created_in_one_order(engine: Engine) -> None:
    """Opposite orders would deadlock as soon as both batches wait for a third between them."""
    ids = [1, 2, 3]
    upwards = [a_cancel(id_, message=id_) for id_ in ids]
    downwards = [a_cancel(id_, message=id_) for id_ in reversed(ids)]
    with ThreadPoolExecutor(2) as pool, engine.begin() as between:
        apply(between, [a_cancel(2, message=9)])
        batches = [pool.submit(until_decided, engine, upwards)]
        wait_until_blocked(engine)
        batches.append(pool.submit(until_decided, engine, downwards))
        wait_until_blocked(engine, waiting=2)
        between.rollback()

        assert [batch.result(DEADLINE_S) for batch in batches] == [0, 1]


def until_decided(engine: Engine, batch: Sequence[RoomRequest]) -> int:
    """Do what a consumer does; returns how often it had to begin again."""
    again = 0
    while True:
        try:
            arrive(engine, *batch)
        except store.AllocationRace:
            again += 1
        else:
            return again


def test_batches_that_overlap_in_every_way_neither_deadlock_nor_overbook(engine: Engine) -> None:
    """Reserves and cancels of the same reservations, in opposite orders, over the same nights."""
    open_rooms(engine, capacity=3)
    stays = [
        Stay(EVE + timedelta(days=first), EVE + timedelta(days=first + length))
        for first in range(5)
        for length in (1, 3)
    ]
    reserves = [
        a_reserve(id_, message=id_, room_id=room_id, stay=stays[id_ % len(stays)])
        for id_, room_id in enumerate([ALPINE, SEASIDE] * 100, start=1)
    ]
    cancels = [a_cancel(id_, message=1_000 + id_) for id_ in range(1, 201, 2)]
    batches = [list(reversed(reserves)), cancels, reserves[:120], list(reversed(cancels)), reserves]

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(until_decided, engine, batch) for batch in batches * 2]:
            done.result(60)

    assert inconsistent_nights(engine) == []
    arrive(engine, *(a_cancel(id_, message=9_000) for id_ in range(1, 201)))
    assert (taken(engine, ALPINE), taken(engine, SEASIDE)) == ({}, {})


def inconsistent_nights(engine: Engine) -> list[tuple[int, date]]:
    counted = text("""
        SELECT room_id, night FROM rooms.room_night
        WHERE taken <> (
            SELECT count(*) FROM rooms.allocation
            WHERE allocation.room_id = room_night.room_id AND state = 'HELD'
              AND night >= check_in AND night < check_out
        )
    """)
    with engine.connect() as connection:
        return [(room_id, night) for room_id, night in connection.execute(counted)]


def test_postgres_itself_refuses_to_overbook(engine: Engine) -> None:
    open_rooms(engine, capacity=1)

    with pytest.raises(IntegrityError) as refused, engine.begin() as connection:
        connection.execute(text("UPDATE rooms.room_night SET taken = 2"))

    assert isinstance(refused.value.orig, CheckViolation)
    assert refused.value.orig.diag.constraint_name == "ck_room_night_taken_within_capacity"


def test_nights_are_opened_and_changed_as_a_range(engine: Engine) -> None:
    with engine.begin() as connection:
        assert set_nights(connection, ALPINE, EVE, NEW_YEAR, 5, name="Alpine") == NightsSet(8)
        set_nights(connection, ALPINE, EVE, date(2026, 12, 26), 3)

    with engine.connect() as connection:
        opened = calendar.opened_nights(connection, ALPINE, EVE, NEW_YEAR)
        peaks = set(connection.scalars(text("SELECT capacity_peak FROM rooms.room_night")))
        name = connection.scalar(text("SELECT name FROM rooms.room"))

    assert [night.capacity for night in opened] == [3, 3, 5, 5, 5, 5, 5, 5]
    assert opened[-1].on == date(2026, 12, 31)
    assert (peaks, name) == ({5}, "Alpine")


def test_capacity_cannot_fall_below_what_is_taken(engine: Engine) -> None:
    open_rooms(engine, capacity=2)
    arrive(engine, a_reserve(1), a_reserve(2))

    with engine.begin() as connection:
        refused = set_nights(connection, ALPINE, EVE, NEW_YEAR, 1)

    assert refused == BelowTaken(
        tuple(RoomNight(ALPINE, night, 2, 2) for night in CHRISTMAS.nights)
    )
    with engine.connect() as connection:
        opened = calendar.opened_nights(connection, ALPINE, EVE, NEW_YEAR)
    assert {night.capacity for night in opened} == {2}


def test_two_writers_of_one_calendar_take_turns(engine: Engine) -> None:
    """Nights that do not exist yet cannot be locked, so the room is."""
    with engine.begin() as connection:
        set_nights(connection, ALPINE, NEW_YEAR, date(2027, 1, 2), 2)

    with ThreadPoolExecutor(1) as pool, engine.begin() as opening:
        set_nights(opening, ALPINE, EVE, NEW_YEAR, 2)
        apply(opening, [a_reserve()])
        closing = pool.submit(close, engine)
        wait_until_blocked(engine)
        opening.commit()

        assert isinstance(closing.result(DEADLINE_S), BelowTaken)


def close(engine: Engine) -> Changed:
    with engine.begin() as connection:
        return set_nights(connection, ALPINE, EVE, NEW_YEAR, 0)


@pytest.mark.parametrize("until_on", [EVE, date(2026, 12, 23), date(2030, 12, 24), date.max])
def test_absurd_ranges_are_refused(engine: Engine, until_on: date) -> None:
    with pytest.raises(InvalidRange), engine.begin() as connection:
        set_nights(connection, ALPINE, EVE, until_on, 1)


def test_nights_are_locked_in_one_order_however_they_are_named(engine: Engine) -> None:
    """Opposite orders would deadlock as soon as both wait for a night between them."""
    open_rooms(engine)
    keys = [(ALPINE, EVE), (ALPINE, EVE + timedelta(days=1)), (ALPINE, EVE + timedelta(days=2))]
    # So few rows would be read whole, and so in the table's order, whoever asks.
    by_key = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    looking_up = create_engine(engine.url, connect_args={"options": by_key})

    def lock(named: Sequence[NightKey]) -> int:
        with looking_up.begin() as connection:
            return len(lock_nights(connection, named))

    with ThreadPoolExecutor(2) as pool, engine.begin() as between:
        lock_nights(between, keys[1:2])
        upwards = pool.submit(lock, keys)
        wait_until_blocked(engine)
        downwards = pool.submit(lock, keys[::-1])
        wait_until_blocked(engine, waiting=2)
        between.rollback()

        assert [upwards.result(DEADLINE_S), downwards.result(DEADLINE_S)] == [3, 3]
    looking_up.dispose()


def test_changes_are_made_in_order_and_each_on_all_of_its_nights_or_on_none(engine: Engine) -> None:
    """Some are refused; that touches neither those beside them nor the rooms they name."""
    open_rooms(engine, capacity=2)
    arrive(engine, a_reserve(1), a_reserve(2))
    week = tuple(EVE + timedelta(days=day) for day in range(7))
    changes = [
        Change(ALPINE, week, capacity=1, name="Refused"),
        Change(ALPINE, week[3:], capacity=9, min_stay=3),
        Change(SEASIDE, week, closed=True, name="Seaside"),
        Change(SEASIDE, (*week, date(2027, 6, 1)), closed=False, name="Refused"),
        Change(99, week, closed=True),
        Change(ALPINE, week[-1:], capacity=8),
    ]
    with engine.begin() as connection:
        outcomes = calendar.change_nights(connection, changes)

    with engine.connect() as connection:
        alpine = calendar.opened_nights(connection, ALPINE, EVE, NEW_YEAR)
        seaside = calendar.opened_nights(connection, SEASIDE, EVE, NEW_YEAR)
        rooms = connection.execute(text("SELECT id, name FROM rooms.room ORDER BY id")).all()
    assert [type(outcome) for outcome in outcomes] == [
        BelowTaken, NightsSet, NightsSet, WithoutCapacity, WithoutCapacity, NightsSet,
    ]  # fmt: skip
    assert [night.capacity for night in alpine] == [2, 2, 2, 9, 9, 9, 8, 2]
    assert [night.taken for night in alpine] == [2, 2, 2, 0, 0, 0, 0, 0]
    assert [night.min_stay for night in alpine] == [1, 1, 1, 3, 3, 3, 3, 1]
    assert [night.closed for night in seaside] == [True] * 7 + [False]
    assert [tuple(room) for room in rooms] == [(ALPINE, None), (SEASIDE, "Seaside")]


def test_a_change_that_changes_nothing_writes_nothing(engine: Engine) -> None:
    """So a bulk load that is repeated costs the reading alone."""
    written = text("SELECT max(xmin::text::bigint) FROM rooms.room_night")
    open_rooms(engine)
    with engine.connect() as connection:
        before = connection.scalar(written)

    open_rooms(engine)

    with engine.connect() as connection:
        assert connection.scalar(written) == before


def test_the_day_of_departure_is_locked_but_not_taken(engine: Engine) -> None:
    """Who closes it meanwhile waits: either the stay is held before, or it is refused after."""
    open_rooms(engine)
    no_departure = Change(ALPINE, (CHRISTMAS.check_out,), closed_to_departure=True)
    with ThreadPoolExecutor(1) as pool, engine.begin() as reserving:
        apply(reserving, [a_reserve(1)])
        closing = pool.submit(change, engine, no_departure)
        wait_until_blocked(engine)
        reserving.commit()
        assert closing.result(DEADLINE_S) == NightsSet(1)

    with engine.begin() as connection:
        [refused] = apply(connection, [a_reserve(2)]).results
    assert refused.message == "CLOSED_TO_DEPARTURE: no departure on 2026-12-27"
    assert taken(engine) == dict.fromkeys(CHRISTMAS.nights, 1)


def change(engine: Engine, asked: Change) -> Changed:
    with engine.begin() as connection:
        return calendar.change_nights(connection, [asked])[0]


def test_availability_says_what_is_left(engine: Engine) -> None:
    open_rooms(engine, capacity=2)
    arrive(engine, a_reserve(1), a_reserve(2, stay=Stay(EVE, date(2026, 12, 25))))

    with engine.connect() as connection:
        christmas = calendar.availability(connection, ALPINE, CHRISTMAS)
        leaving = Stay(date(2026, 12, 25), date(2027, 1, 2))
        beyond = calendar.availability(connection, ALPINE, leaving)
        nowhere = calendar.availability(connection, 99, Stay(EVE, date(2026, 12, 25)))

    assert (christmas.bookable, christmas.minimum_free) == (False, 0)
    assert christmas.failing == ((EVE, ReasonCode.SOLD_OUT),)
    assert beyond.failing == ((NEW_YEAR, ReasonCode.NIGHT_NOT_OPEN),)
    assert nowhere.failing == ((EVE, ReasonCode.UNKNOWN_ROOM),)


def test_a_free_stay_is_bookable(engine: Engine) -> None:
    open_rooms(engine, capacity=2)
    arrive(engine, a_reserve())

    with engine.connect() as connection:
        seen = calendar.availability(connection, ALPINE, CHRISTMAS)

    assert (seen.bookable, seen.minimum_free, seen.failing) == (True, 1, ())


def test_a_released_allocation_remembers_both_messages(engine: Engine) -> None:
    open_rooms(engine)
    arrive(engine, a_reserve(message=1))
    arrive(engine, a_cancel(message=2))

    with engine.connect() as connection:
        remembered = store.lock(connection, [a_cancel()]).allocations.get(1)

    assert remembered is not None
    assert remembered.state is State.RELEASED
    assert (remembered.reserve_message_id, remembered.cancel_message_id) == (
        UUID(int=1),
        UUID(int=2),
    )
