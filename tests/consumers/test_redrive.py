"""Asking again: a saga that waits too long goes on, and nothing is decided by the clock."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

from sqlalchemy import Engine, create_engine, text

from consumers.redrive import redrive_once
from consumers.rooms import RoomsHandler
from domain.messages import ROOM_CANCEL, ROOM_RESERVE, Envelope
from domain.reservations.model import REDRIVEN
from tests.support.saga import (
    a_reservation,
    allocations,
    answers,
    apply,
    cancel_reservation,
    open_rooms,
    taken,
)

MINUTE_S = 60.0


def age(engine: Engine, *ids: int, minutes: float = 60) -> None:
    """Let these have waited for so long."""
    older = text("""
        UPDATE reservations.reservation SET updated_at = now() - make_interval(secs => :seconds)
        WHERE id = ANY (:ids)
    """)
    with engine.begin() as connection:
        connection.execute(older, {"ids": list(ids), "seconds": minutes * MINUTE_S})


def requests(engine: Engine) -> list[Envelope]:
    """What was asked of the rooms, in the order of the outbox."""
    query = text("""
        SELECT message_id, topic, key, value FROM outbox.message
        WHERE topic IN ('room-reserve', 'room-cancel') ORDER BY position
    """)
    with engine.connect() as connection:
        return [
            Envelope(row.message_id, row.topic, row.key, "", "", row.value)
            for row in connection.execute(query)
        ]


def versions(engine: Engine) -> dict[int, tuple[str, int]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, status, version FROM reservations.reservation"))
        return {id_: (status, version) for id_, status, version in rows}


def test_only_what_has_waited_too_long_is_asked_again(engine: Engine) -> None:
    """Under a new message id, with the next version and the message that goes with it."""
    waiting, fresh = a_reservation(engine), a_reservation(engine)
    age(engine, waiting.id)

    assert redrive_once(engine, MINUTE_S) == 1
    assert redrive_once(engine, MINUTE_S) == 0

    first, _, again = requests(engine)
    assert versions(engine) == {waiting.id: ("PENDING", 2), fresh.id: ("PENDING", 1)}
    assert (again.topic, again.key, again.value) == (first.topic, first.key, first.value)
    assert again.message_id != first.message_id
    newest = "SELECT message_id, reason FROM reservations.transition WHERE version = 2"
    with engine.connect() as connection:
        assert connection.execute(text(newest)).one() == (again.message_id, REDRIVEN)


def test_each_time_in_vain_doubles_the_wait_up_to_a_bound(engine: Engine) -> None:
    """So an outage does not multiply its own backlog, and its end is noticed all the same."""
    reservation = a_reservation(engine)
    for minutes in (1, 2, 4, 8, 16, 32, 64, 64, 64):
        age(engine, reservation.id, minutes=minutes - 0.5)
        assert redrive_once(engine, MINUTE_S) == 0
        age(engine, reservation.id, minutes=minutes + 0.1)
        assert redrive_once(engine, MINUTE_S) == 1


def test_a_cancel_waits_as_if_nothing_had_been_asked_in_vain_before_it(engine: Engine) -> None:
    reservation = a_reservation(engine)
    for _ in range(3):
        age(engine, reservation.id)
        redrive_once(engine, MINUTE_S)
    cancel_reservation(engine, reservation.id)
    age(engine, reservation.id, minutes=1.1)

    assert redrive_once(engine, MINUTE_S) == 1


def test_a_saga_that_is_being_cancelled_asks_for_the_cancel_again(engine: Engine) -> None:
    reservation = a_reservation(engine)
    cancel_reservation(engine, reservation.id)
    age(engine, reservation.id)

    assert redrive_once(engine, MINUTE_S) == 1
    assert [request.topic for request in requests(engine)] == [
        ROOM_RESERVE,
        ROOM_CANCEL,
        ROOM_CANCEL,
    ]
    assert versions(engine) == {reservation.id: ("CANCELLING", 3)}


def test_what_is_settled_is_left_alone(engine: Engine) -> None:
    reservation = a_reservation(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE reservations.reservation SET status = 'CONFIRMED'"))
    age(engine, reservation.id)

    assert redrive_once(engine, MINUTE_S) == 0
    assert len(requests(engine)) == 1


def test_the_rooms_answer_again_from_what_they_remember(engine: Engine) -> None:
    """One allocation, taken right, an answer for each time it was asked."""
    open_rooms(engine)
    held, refused = a_reservation(engine), a_reservation(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE rooms.room_night SET capacity = 1"))
    apply(engine, RoomsHandler(), *requests(engine))
    age(engine, held.id, refused.id)
    redrive_once(engine, MINUTE_S)
    apply(engine, RoomsHandler(), *requests(engine))

    assert answers(engine) == [(held.id, "SUCCESS"), (refused.id, "FAILURE")] * 2
    assert allocations(engine) == {held.id: "HELD", refused.id: "REFUSED"}
    assert set(taken(engine).values()) == {1}


def test_a_lost_request_is_made_good(engine: Engine) -> None:
    """The rooms never saw the first message; they answer the second."""
    open_rooms(engine)
    reservation = a_reservation(engine)
    age(engine, reservation.id)
    redrive_once(engine, MINUTE_S)
    apply(engine, RoomsHandler(), requests(engine)[-1])

    assert answers(engine) == [(reservation.id, "SUCCESS")]


def test_two_who_redrive_at_once_ask_each_saga_once(engine: Engine) -> None:
    ids = [a_reservation(engine).id for _ in range(50)]
    age(engine, *ids)
    start = Barrier(4)

    def redrive() -> int:
        start.wait()
        return redrive_once(engine, MINUTE_S)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(redrive) for _ in range(4)]
        assert sum(each.result() for each in done) == 50
    assert set(versions(engine).values()) == {("PENDING", 2)}
    assert len(requests(engine)) == 100


def test_what_somebody_works_on_is_not_waited_for(engine: Engine) -> None:
    """It is being settled, cancelled or asked again at this moment: it is not stale."""
    ids = [a_reservation(engine).id for _ in range(2)]
    age(engine, *ids)
    lock = text("SELECT 1 FROM reservations.reservation WHERE id = :id FOR UPDATE")
    impatient = create_engine(engine.url, connect_args={"options": "-c lock_timeout=1s"})
    with closing(engine.connect()) as holder:
        holder.execute(lock, {"id": ids[0]})
        assert redrive_once(impatient, MINUTE_S) == 1
    impatient.dispose()
    assert versions(engine)[ids[0]] == ("PENDING", 1)
