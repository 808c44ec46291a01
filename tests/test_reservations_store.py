"""Reservations and idempotency keys in a real Postgres."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from uuid import UUID

import pytest
from psycopg.errors import CheckViolation
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError

from consumers import timeouts
from domain.answers import Answer, RoomResult
from domain.reservations import idempotency, store
from domain.reservations.idempotency import Claimed, InFlight, Mismatch, Replay
from domain.reservations.model import (
    REDRIVEN,
    NewReservation,
    Reservation,
    Status,
    cancel,
    redrive,
    settle,
)
from domain.stay import Stay

CHRISTMAS = Stay(date(2026, 12, 24), date(2026, 12, 27))
ANN, BEN = 42, 43
ALPINE = 7
HOUR_S = 3_600.0
HASH, OTHER_HASH = b"\1" * 32, b"\2" * 32


def a_reservation(connection: Connection, *, member_id: int = ANN, message: int = 1) -> Reservation:
    wish = NewReservation(member_id, ALPINE, CHRISTMAS)
    return store.insert(connection, wish, UUID(int=message))


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
        return store.save_transitions(connection, [(one, UUID(int=id_)) for one, id_ in moved])


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

        page = store.list_of_member(connection, ANN, None, 2)
        rest = store.list_of_member(connection, ANN, page[-1].id, 2)

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
        stored = store.statuses(connection, [one.id for one in pending])
        assert [store.get(connection, one.id) for one in saved[:2]] == saved[:2]
    assert stored == {one.id: one.status for one in settled}
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

    with pytest.raises(store.ReservationMoved):
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


# Idempotency keys.


def claim(connection: Connection, *, member_id: int = ANN, request_hash: bytes = HASH) -> object:
    return idempotency.claim_key(connection, member_id, "christmas", request_hash)


def answer(connection: Connection, *, reservation_id: int = 1) -> None:
    idempotency.answer_key(
        connection, ANN, "christmas", reservation_id=reservation_id, status=202, body=b"{}"
    )


def test_a_key_is_claimed_once_and_then_replayed(engine: Engine) -> None:
    with engine.begin() as connection:
        assert claim(connection) == Claimed()
        answer(connection, reservation_id=5)

    with engine.begin() as connection:
        assert claim(connection) == Replay(5, 202, b"{}")


def test_a_key_belongs_to_its_member(engine: Engine) -> None:
    with engine.begin() as of_ann, engine.begin() as of_ben:
        assert claim(of_ann, member_id=ANN) == Claimed()
        assert claim(of_ben, member_id=BEN) == Claimed()


def test_a_key_used_for_another_request_is_a_mismatch(engine: Engine) -> None:
    with engine.begin() as connection:
        claim(connection)
        answer(connection)

    with engine.begin() as connection:
        assert claim(connection, request_hash=OTHER_HASH) == Mismatch()


def test_the_same_key_at_the_same_time_is_in_flight_and_nobody_waits(engine: Engine) -> None:
    """Both transactions are this thread's: had the second waited, the test would hang."""
    with engine.begin() as first, engine.begin() as second:
        second.execute(text("SET LOCAL lock_timeout = '5s'"))
        assert claim(first) == Claimed()
        assert claim(second) == InFlight()


def test_a_key_is_free_again_after_a_rollback(engine: Engine) -> None:
    with engine.connect() as connection:
        assert claim(connection) == Claimed()
        connection.rollback()
        assert claim(connection) == Claimed()
        connection.rollback()


def test_two_replays_at_the_same_time_both_get_the_answer(engine: Engine) -> None:
    """Holding the lock is no reason to withhold an answer that is there."""
    with engine.begin() as connection:
        claim(connection)
        answer(connection)

    with engine.begin() as first, engine.begin() as second:
        assert claim(first) == claim(second) == Replay(1, 202, b"{}")


def test_of_many_at_once_exactly_one_claims(engine: Engine) -> None:
    def attempt(number: int) -> object:
        with engine.begin() as connection:
            claimed = claim(connection)
            if claimed == Claimed():
                answer(connection, reservation_id=number)
            return claimed

    for _ in range(20):
        with ThreadPoolExecutor(5) as pool:
            outcomes = list(pool.map(attempt, range(1, 11)))
        winners = [number for number, one in enumerate(outcomes, 1) if one == Claimed()]
        [winner] = winners
        others = [one for one in outcomes if one != Claimed()]
        assert all(one in {InFlight(), Replay(winner, 202, b"{}")} for one in others)
        forget_all(engine)


def forget_all(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE reservations.idempotency_key"))


def test_answering_a_key_that_was_never_claimed_is_a_broken_rule(engine: Engine) -> None:
    with pytest.raises(AssertionError), engine.begin() as connection:
        answer(connection)


def test_old_keys_are_forgotten(engine: Engine) -> None:
    with engine.begin() as connection:
        claim(connection)
        answer(connection)
        connection.execute(
            text("UPDATE reservations.idempotency_key SET created_at = now() - interval '25 hours'")
        )

        assert idempotency.forget_keys(connection, 26 * HOUR_S, 10) == 0
        assert idempotency.forget_keys(connection, 24.9 * HOUR_S, 10) == 1


def test_keys_are_forgotten_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a transaction of its own, so that no statement grows with what is old."""
    monkeypatch.setattr(timeouts, "FORGOTTEN_AT_ONCE", 2)
    with engine.begin() as connection:
        for member_id in range(1, 6):
            claim(connection, member_id=member_id)
        aged = "UPDATE reservations.idempotency_key SET created_at = now() - interval '1 minute'"
        connection.execute(text(aged))
        claim(connection, member_id=6)
    parts = 0

    @event.listens_for(engine, "commit")
    def count(_: Connection) -> None:
        nonlocal parts
        parts += 1

    assert timeouts.forget_keys_once(engine, HOUR_S) == 0
    assert timeouts.forget_keys_once(engine, 30.0) == 5
    assert parts == 1 + 3
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT member_id FROM reservations.idempotency_key")) == 6


def test_a_saved_reservation_carries_the_databases_time(engine: Engine) -> None:
    [born] = reservations(engine, 1)
    after = changed(born, Answer.SUCCESS)

    [saved] = save(engine, [(after, 2)])

    assert saved.updated_at > born.updated_at
    assert saved == replace(after, updated_at=saved.updated_at)
