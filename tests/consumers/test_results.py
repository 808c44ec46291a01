"""The results consumer: what each answer does to a reservation, and who hears of it."""

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, text

from consumers.dead_letters import open_letters
from consumers.results import ResultsHandler
from domain.answers import Answer
from domain.messages import RESULTS_GROUP
from domain.reservations import store
from domain.reservations.model import Status
from domain.reservations.store import SETTLED_CHANNEL
from outbox import Doorbell
from tests.support.saga import (
    a_reservation,
    a_result,
    apply,
    cancel_reservation,
    statuses,
)

S, F, C = Answer.SUCCESS, Answer.FAILURE, Answer.CANCEL


CONFIRMED, REJECTED = Status.CONFIRMED, Status.REJECTED


PENDING, CANCELLING, CANCELLED = Status.PENDING, Status.CANCELLING, Status.CANCELLED


# From PENDING: what has happened ("cancel" is the member's), the answer, the status after, a dead letter?
TABLE: list[tuple[list[Answer | str], Answer, Status, bool]] = [
    ([], S, CONFIRMED, False),
    ([], F, REJECTED, False),
    ([], C, PENDING, True),
    (["cancel"], S, CANCELLING, False),
    (["cancel"], F, CANCELLING, False),
    (["cancel"], C, CANCELLED, False),
    ([S], S, CONFIRMED, False),
    ([S], F, CONFIRMED, True),
    ([S], C, CONFIRMED, True),
    ([F], S, REJECTED, False),
    ([F], F, REJECTED, False),
    ([F], C, REJECTED, False),
    ([S, "cancel", C], S, CANCELLED, False),
    ([S, "cancel", C], F, CANCELLED, False),
    ([S, "cancel", C], C, CANCELLED, False),
]


@pytest.mark.parametrize(("past", "answer", "after", "alarms"), TABLE)
def test_every_answer_in_every_state_does_what_the_table_says(
    engine: Engine,
    results: ResultsHandler,
    past: list[Answer | str],
    answer: Answer,
    after: Status,
    alarms: bool,  # noqa: FBT001 - a column of the table
) -> None:
    reservation = a_reservation(engine)
    for event in past:
        if isinstance(event, Answer):
            apply(engine, results, a_result(reservation.id, event))
        else:
            cancel_reservation(engine, reservation.id)
    apply(engine, results, a_result(reservation.id, answer))

    assert statuses(engine, [reservation.id]) == [after]
    with engine.connect() as connection:
        assert len(open_letters(connection, group=RESULTS_GROUP)) == alarms


def test_answers_of_one_reservation_in_one_batch_are_settled_in_their_order(
    engine: Engine, results: ResultsHandler
) -> None:
    """Each is a transition of its own, with the message that caused it."""
    first, second = a_reservation(engine), a_reservation(engine)
    cancel_reservation(engine, first.id)
    batch = [a_result(first.id, S), a_result(second.id, S), a_result(first.id, C)]
    again = a_result(second.id, S)
    apply(engine, results, *batch, again)

    assert statuses(engine, [first.id, second.id]) == [CANCELLED, CONFIRMED]
    caused = text("SELECT message_id FROM reservations.transition WHERE message_id = ANY (:ids)")
    with engine.connect() as connection:
        ids = [message.message_id for message in (*batch, again)]
        found = set(connection.scalars(caused, {"ids": ids}))
    assert found == {batch[1].message_id, batch[2].message_id}


def test_two_changes_of_one_reservation_in_one_batch_are_two_versions(
    engine: Engine, results: ResultsHandler
) -> None:
    """A rejection after which the same answer comes twice more changes it once."""
    reservation = a_reservation(engine)
    apply(engine, results, *(a_result(reservation.id, F, "SOLD_OUT: none") for _ in range(3)))

    with engine.connect() as connection:
        found = store.get(connection, reservation.id)
    assert found
    assert (found.status, found.reason, found.version) == (REJECTED, "SOLD_OUT: none", 2)


def test_who_waits_for_an_answer_hears_of_it_after_the_commit(engine: Engine) -> None:
    ids = [a_reservation(engine).id for _ in range(2)]
    with (
        closing(Doorbell(engine, SETTLED_CHANNEL)) as doorbell,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as listener,
    ):
        listener.execute(text(f"LISTEN {SETTLED_CHANNEL}"))
        apply(engine, ResultsHandler(doorbell), *(a_result(id_, S) for id_ in ids))

        driver: Any = listener.connection.driver_connection
        (heard,) = driver.notifies(timeout=10, stop_after=1)
    assert heard.payload.split(",") == [str(id_) for id_ in ids]
