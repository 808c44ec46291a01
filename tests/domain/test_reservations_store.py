"""Reservations and idempotency keys in a real Postgres."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from uuid import UUID

import pytest
from psycopg.errors import CheckViolation
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from domain.answers import Answer, RoomResult
from domain.reservations import reading, store
from domain.reservations.model import (
    REDRIVEN,
    Cause,
    NewReservation,
    Reservation,
    Status,
    cancel,
    redrive,
    settle,
)
from domain.reservations.reading import Filter
from domain.stay import Stay
from tests.support.factories import reserved

CHRISTMAS = Stay(date(2026, 12, 24), date(2026, 12, 27))
ANN, BEN = 42, 43
ALPINE = 7
HOUR_S = 3_600.0
HASH, OTHER_HASH = b"\1" * 32, b"\2" * 32


def a_reservation(connection: Connection, *, member_id: int = ANN, message: int = 1) -> Reservation:
    wish = NewReservation(member_id, ALPINE, CHRISTMAS)
    return reserved(connection, wish, Cause(UUID(int=message)))


def reservations(engine: Engine, count: int) -> list[Reservation]:
    with engine.begin() as connection:
        return [a_reservation(connection, message=number) for number in range(1, count + 1)]


def changed(reservation: Reservation, answer: Answer, message: str = "") -> Reservation:
    after = settle(reservation, RoomResult(reservation.id, answer, message, UUID(int=0)))
    assert isinstance(after, Reservation)
    return after


def cancelled(reservation: Reservation) -> Reservation:
    after = cancel(reservation)
    assert isinstance(after, Reservation)
    return after


def save(engine: Engine, moved: Sequence[tuple[Reservation, int]]) -> list[Reservation]:
    with engine.begin() as connection:
        store.lock(connection, [one.id for one, _ in moved])
        return store.save_transitions(
            connection, [(one, Cause(UUID(int=id_))) for one, id_ in moved]
        )


def history(engine: Engine, reservation_id: int) -> list[tuple[int, str, str | None, UUID]]:
    chosen = text("""
        SELECT version, status, reason, message_id FROM reservations.transition
        WHERE reservation_id = :id ORDER BY version
    """)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(chosen, {"id": reservation_id})]


def age(engine: Engine, reservation: Reservation, minutes: int) -> None:
    older = text("""
        UPDATE reservations.reservation SET updated_at = now() - make_interval(mins => :minutes)
        WHERE id = :id
    """)
    with engine.begin() as connection:
        connection.execute(older, {"id": reservation.id, "minutes": minutes})


def test_a_new_reservation_is_pending_and_comes_back_as_it_was_stored(engine: Engine) -> None:
    with engine.begin() as connection:
        stored = a_reservation(connection)

    with engine.connect() as connection:
        assert store.get(connection, stored.id) == stored
    assert (stored.status, stored.version, stored.stay) == (Status.PENDING, 1, CHRISTMAS)
    assert history(engine, stored.id) == [(1, "PENDING", None, UUID(int=1))]


def test_a_rollback_leaves_neither_reservation_nor_transition(engine: Engine) -> None:
    with engine.connect() as connection:
        stored = a_reservation(connection)
        connection.rollback()
        assert store.get(connection, stored.id) is None

    assert history(engine, stored.id) == []


def test_a_member_sees_only_their_own_reservation(engine: Engine) -> None:
    with engine.begin() as connection:
        of_ann = a_reservation(connection, member_id=ANN)

        assert store.get(connection, of_ann.id, member_id=ANN) == of_ann
        assert store.get(connection, of_ann.id, member_id=BEN) is None


def test_a_members_list_is_paged_newest_first(engine: Engine) -> None:
    with engine.begin() as connection:
        first, second, third = (a_reservation(connection) for _ in range(3))
        a_reservation(connection, member_id=BEN)

        page = reading.page(connection, Filter(ANN), None, 2)
        rest = reading.page(connection, Filter(ANN), page[-1].id, 2)

    assert page == [third, second]
    assert rest == [first]


def test_a_life_is_written_down_version_by_version(engine: Engine) -> None:
    [born] = reservations(engine, 1)
    [asked_again] = save(engine, [(redrive(born), 2)])
    [confirmed] = save(engine, [(changed(asked_again, Answer.SUCCESS), 3)])
    [cancelling] = save(engine, [(cancelled(confirmed), 4)])
    [gone] = save(engine, [(changed(cancelling, Answer.CANCEL), 5)])

    with engine.connect() as connection:
        assert store.get(connection, born.id) == gone
    assert history(engine, born.id) == [
        (1, "PENDING", None, UUID(int=1)),
        (2, "PENDING", REDRIVEN, UUID(int=2)),
        (3, "CONFIRMED", None, UUID(int=3)),
        (4, "CANCELLING", None, UUID(int=4)),
        (5, "CANCELLED", None, UUID(int=5)),
    ]


def test_hundreds_of_reservations_are_settled_by_one_statement(engine: Engine) -> None:
    pending = reservations(engine, 300)
    answers = [Answer.SUCCESS, Answer.FAILURE]
    settled = [
        changed(one, answers[number % 2], "SOLD_OUT: no room left" if number % 2 else "")
        for number, one in enumerate(pending)
    ]

    saved = save(engine, [(one, 1_000 + one.id) for one in settled])

    with engine.connect() as connection:
        found = reading.page(connection, Filter(ANN), None, len(pending))
        assert [store.get(connection, one.id) for one in saved[:2]] == saved[:2]
    assert [one.status for one in reversed(found)] == [one.status for one in settled]
    assert history(engine, saved[1].id)[-1] == (
        2,
        "REJECTED",
        "SOLD_OUT: no room left",
        UUID(int=1_000 + saved[1].id),
    )


def test_saving_nothing_is_fine(engine: Engine) -> None:
    assert save(engine, []) == []


def test_a_change_of_an_outdated_version_is_refused(engine: Engine) -> None:
    """Whoever forgets to lock is stopped by the version."""
    [born] = reservations(engine, 1)
    save(engine, [(changed(born, Answer.SUCCESS), 2)])

    with pytest.raises(store.StaleVersion):
        save(engine, [(changed(born, Answer.FAILURE, "SOLD_OUT: too late"), 3)])

    assert [status for _, status, _, _ in history(engine, born.id)] == ["PENDING", "CONFIRMED"]


def test_lock_returns_those_that_exist(engine: Engine) -> None:
    first, second = reservations(engine, 2)

    with engine.begin() as connection:
        locked = store.lock(connection, [second.id, 999, first.id])

    assert locked == {first.id: first, second.id: second}


def test_only_open_sagas_that_waited_long_are_stale(engine: Engine) -> None:
    fresh, old, older, settled, cancelling = reservations(engine, 5)
    save(engine, [(changed(settled, Answer.SUCCESS), 11), (cancelled(cancelling), 12)])
    for one, minutes in ((old, 10), (older, 30), (settled, 60), (cancelling, 20)):
        age(engine, one, minutes)

    with engine.begin() as connection:
        waiting = [one.id for one in store.stale(connection, 300.0, 10)]
        longest = [one.id for one in store.stale(connection, 300.0, 1)]

    assert waiting == [older.id, cancelling.id, old.id]
    assert longest == [older.id]
    assert fresh.id not in waiting


def test_a_saga_that_somebody_settles_right_now_is_not_stale(engine: Engine) -> None:
    one, other = reservations(engine, 2)
    age(engine, one, 10)
    age(engine, other, 20)

    with engine.begin() as settling, engine.begin() as redriving:
        store.lock(settling, [one.id])
        waiting = store.stale(redriving, 300.0, 10)

    assert [stale.id for stale in waiting] == [other.id]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'PERHAPS'", "ck_reservation_known_status"),
        ("status = 'REJECTED'", "ck_reservation_fitting_reason"),
        ("reason = 'no idea'", "ck_reservation_fitting_reason"),
        ("check_out = check_in", "ck_reservation_has_a_night"),
    ],
)
def test_postgres_itself_refuses_what_no_reservation_can_be(
    engine: Engine, change: str, constraint: str
) -> None:
    reservations(engine, 1)

    with pytest.raises(IntegrityError) as refused, engine.begin() as connection:
        connection.execute(text(f"UPDATE reservations.reservation SET {change}"))

    assert isinstance(refused.value.orig, CheckViolation)
    assert refused.value.orig.diag.constraint_name == constraint


def test_a_saved_reservation_carries_the_databases_time(engine: Engine) -> None:
    [born] = reservations(engine, 1)
    after = changed(born, Answer.SUCCESS)

    [saved] = save(engine, [(after, 2)])

    assert saved.updated_at > born.updated_at
    assert saved == replace(after, updated_at=saved.updated_at)
