"""Dead letters in a person's hands: listed, retried or discarded, and decided once."""

import pytest
from sqlalchemy import Engine

from consumers import dead_letters
from consumers.dead_letters import NoSuchDeadLetter
from consumers.handling import StillRefused, handle, retry_dead_letter
from consumers.process import retrying
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.answers import Answer
from domain.messages import (
    ROOMS_GROUP,
    PoisonMessage,
)
from runtime.settings import Settings
from tests.support.poison import THIRTEEN, Cursed, garbage, open_letters
from tests.support.saga import (
    CHRISTMAS,
    a_reservation,
    a_reserve,
    a_result,
    apply,
    open_rooms,
    taken,
)

ROOMS = RoomsHandler()


def test_a_dead_letter_is_applied_by_a_retry(engine: Engine, settings: Settings) -> None:
    """In one transaction with the decision, so it is never applied and still open."""
    open_rooms(engine)
    apply(engine, Cursed(RuntimeError), a_reserve(THIRTEEN))
    (letter,) = open_letters(engine)
    with retrying(engine, settings) as handlers:
        retry_dead_letter(engine, handlers, letter.id)

    assert taken(engine) == dict.fromkeys(CHRISTMAS.nights, 1)
    assert not open_letters(engine)
    with engine.connect() as connection:
        decided = dead_letters.find(connection, letter.id)
    assert (decided.state, decided.record) == ("RETRIED", letter.record)
    assert decided.decided_at


def test_a_result_that_came_too_early_is_applied_by_a_retry(
    engine: Engine, settings: Settings, results: ResultsHandler
) -> None:
    apply(engine, results, a_result(1, Answer.SUCCESS))
    (letter,) = open_letters(engine)
    with retrying(engine, settings) as handlers:
        with pytest.raises(StillRefused, match="UNKNOWN_RESERVATION"):
            retry_dead_letter(engine, handlers, letter.id)
        assert open_letters(engine) == [letter]

        a_reservation(engine)
        retry_dead_letter(engine, handlers, letter.id)
    assert not open_letters(engine)


def test_a_retry_of_poison_or_of_what_fails_again_stays_open(
    engine: Engine, settings: Settings
) -> None:
    open_rooms(engine)
    cursed = Cursed(RuntimeError)
    handle(engine, ROOMS, [garbage(b"x")], attempts_max=3)
    apply(engine, cursed, a_reserve(THIRTEEN))
    poison, failing = letters = open_letters(engine)

    with retrying(engine, settings) as handlers, pytest.raises(PoisonMessage):
        retry_dead_letter(engine, handlers, poison.id)
    with pytest.raises(RuntimeError):
        retry_dead_letter(engine, {ROOMS_GROUP: cursed}, failing.id)
    assert open_letters(engine) == letters
    assert taken(engine) == {}


def test_a_dead_letter_is_decided_once(engine: Engine, settings: Settings) -> None:
    handle(engine, ROOMS, [garbage(b"x")], attempts_max=3)
    (letter,) = open_letters(engine)
    with engine.begin() as connection:
        assert dead_letters.discard(connection, letter.id) == letter

    assert not open_letters(engine)
    with engine.begin() as connection:
        assert dead_letters.find(connection, letter.id).state == "DISCARDED"
        with pytest.raises(NoSuchDeadLetter):
            dead_letters.discard(connection, letter.id)
        with pytest.raises(NoSuchDeadLetter):
            dead_letters.find(connection, 999)
    with retrying(engine, settings) as handlers, pytest.raises(NoSuchDeadLetter):
        retry_dead_letter(engine, handlers, letter.id)
