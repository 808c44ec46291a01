"""What befalls every message alike is waited for, and held against none."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from consumers.handling import handle, is_race, is_transient
from consumers.rooms import RoomsHandler
from domain.rooms.store import AllocationRace
from tests.support.db_faults import TROUBLES, execute
from tests.support.poison import open_letters
from tests.support.saga import (
    CHRISTMAS,
    a_cancel,
    a_record,
    a_reserve,
    allocations,
    apply,
    apply_patiently,
    open_rooms,
    records,
)
from tests.support.waiting import eventually

ROOMS = RoomsHandler()


@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.__name__ for trouble in TROUBLES])
def test_what_befalls_every_message_is_held_against_none(
    engine: Engine, trouble: Callable[[Engine], Any]
) -> None:
    """The batch is kept, and applied when it is over."""
    open_rooms(engine)
    options = "-c lock_timeout=50ms"
    ours = create_engine(engine.url, connect_args={"options": options})
    batch = records(a_reserve(1, 1), a_reserve(2, 2))
    with trouble(engine), pytest.raises(Exception) as raised:  # noqa: PT011 - each its own
        handle(ours, ROOMS, batch, attempts_max=3)
    assert is_transient(raised.value)

    apply_patiently(ours, ROOMS, batch)
    ours.dispose()
    assert set(allocations(engine).values()) == {"HELD"}
    assert not open_letters(engine)


def test_a_batch_too_slow_for_the_time_it_has_is_done_in_parts(engine: Engine) -> None:
    """A slow database is no message's fault: less work fits."""
    open_rooms(engine, capacity=100)
    execute(
        engine,
        """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END'
        """,
    )
    execute(
        engine,
        "CREATE TRIGGER slow BEFORE INSERT ON rooms.allocation "
        "FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    options = "-c statement_timeout=200ms"
    ours = create_engine(engine.url, connect_args={"options": options})
    apply_patiently(ours, ROOMS, records(*(a_reserve(n, n) for n in range(1, 21))))
    ours.dispose()

    assert len(allocations(engine)) == 20
    assert not open_letters(engine)


CUTS = ["", "SET LOCAL idle_in_transaction_session_timeout = 10"]


@pytest.mark.parametrize("cut", CUTS, ids=["by an operator", "by a pause of this process"])
def test_a_connection_cut_in_the_middle_is_nobodys_fault(engine: Engine, cut: str) -> None:
    open_rooms(engine)

    class Cut(RoomsHandler):
        def apply(self, connection: Connection, requests: Sequence[Any]) -> Mapping[UUID, str]:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            there = f"SELECT FROM pg_stat_activity WHERE pid = {pid}"
            if cut:
                connection.execute(text(cut))
            else:
                execute(engine, f"SELECT pg_terminate_backend({pid})")
            eventually(lambda: not rows(engine, there))
            return super().apply(connection, requests)

    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's, one of several
        apply(engine, Cut(), a_reserve())
    assert is_transient(raised.value)
    assert not open_letters(engine)


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(query)))


def test_who_met_a_reservation_second_decides_again(engine: Engine) -> None:
    """Its cancel is being applied by another consumer; both write its allocation."""
    open_rooms(engine)
    cancel = ROOMS.decode(a_record(a_cancel(1)))
    reserve = records(a_reserve(1))
    with ThreadPoolExecutor(1) as aside, engine.connect() as first:
        ROOMS.apply(first, [cancel])
        second = aside.submit(handle, engine, ROOMS, reserve, attempts_max=1)
        await_waiting(engine)
        first.commit()
        with pytest.raises(AllocationRace) as raised:
            second.result()

    assert is_race(raised.value)
    assert is_transient(raised.value)
    handle(engine, ROOMS, reserve, attempts_max=1)
    assert allocations(engine) == {1: "RELEASED"}
    assert not open_letters(engine)


def test_a_deadlock_is_run_again_and_held_against_nobody(engine: Engine) -> None:
    """Somebody who does not keep our order of locks wants the nights the other way round."""
    open_rooms(engine)
    lock = text("SELECT 1 FROM rooms.room_night WHERE night = :night FOR UPDATE")
    first, middle, last = [{"night": night} for night in CHRISTMAS.nights]
    batch = records(a_reserve(1))
    with (
        ThreadPoolExecutor(2) as aside,
        engine.connect() as other,
        engine.connect() as gate,
    ):
        # So that the batch is the victim: it looks for a deadlock once, a second after it begins to wait.
        other.execute(text("SET deadlock_timeout = '30s'"))
        other.execute(lock, last)
        gate.execute(lock, middle)
        ours = aside.submit(handle, engine, ROOMS, batch, attempts_max=1)
        await_waiting(engine)
        theirs = aside.submit(other.execute, lock, first)
        await_waiting(engine, 2)
        gate.rollback()  # only now does the batch want the last one
        with pytest.raises(OperationalError, match="deadlock") as raised:
            ours.result()
        theirs.result()
        other.rollback()

    assert is_race(raised.value)
    assert is_transient(raised.value)
    handle(engine, ROOMS, batch, attempts_max=1)
    assert allocations(engine) == {1: "HELD"}
    assert not open_letters(engine)


def await_waiting(engine: Engine, count: int = 1) -> None:
    """Return as soon as so many transactions of this database wait for another's lock."""
    waiting = """
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    eventually(lambda: len(rows(engine, waiting)) >= count)
