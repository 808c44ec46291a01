"""Dead letters: poison among good messages, and what a message causes by no visible fault."""

from uuid import uuid4

import pytest
from sqlalchemy import Engine

from consumers import dead_letters
from consumers.handling import handle
from consumers.records import Record
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.answers import Answer
from domain.messages import (
    RESULTS_GROUP,
    ROOM_RESERVE,
    ROOMS_GROUP,
)
from runtime.settings import Settings
from tests.poison import THIRTEEN, Cursed, garbage, open_letters
from tests.saga import (
    a_consumer,
    a_record,
    a_reservation,
    a_reserve,
    a_result,
    allocations,
    apply,
    open_rooms,
    publish,
)
from tests.troubles import execute
from tests.waiting import eventually

ROOMS = RoomsHandler()

GARBAGE = [
    None,
    b"",
    b"\x00",
    b"\xff\xfe not UTF-8",
    b"not JSON",
    b"[]",
    b"null",
    b"{" * 100_000,
    b"[" * 60_000,
    b'{"reservationId":1}',
    b'{"reservationId":"1","roomId":7,"checkInDate":"2026-12-24","checkOutDate":"2026-12-27"}',
    b'{"reservationId":1.5,"roomId":7,"checkInDate":"2026-12-24","checkOutDate":"2026-12-27"}',
    b'{"reservationId":0,"roomId":7,"checkInDate":"2026-12-24","checkOutDate":"2026-12-27"}',
    b'{"reservationId":1,"roomId":9223372036854775808}',
    b'{"reservationId":1,"roomId":7,"checkInDate":"2026-12-24","checkOutDate":"2026-12-24"}',
    b'{"reservationId":1,"roomId":7,"checkInDate":"2026-12-27","checkOutDate":"2026-12-24"}',
    b'{"reservationId":1,"roomId":7,"checkInDate":"0001-01-01","checkOutDate":"9999-12-31"}',
    b'{"reservationId":1,"roomId":7,"checkInDate":"2026-02-30","checkOutDate":"2026-12-24"}',
    b'{"reservationId":1,"roomId":7,"checkInDate":"\\u0000","checkOutDate":"2026-12-24"}',
]


def test_poison_is_set_aside_whole_and_all_the_others_are_applied(engine: Engine) -> None:
    open_rooms(engine, capacity=100)
    good = [a_record(a_reserve(number, number)) for number in range(1, len(GARBAGE) + 2)]
    bad = [garbage(value, {"ce_id": "not a UUID", "x": "y"}) for value in GARBAGE]
    mixed = [record for pair in zip(good, bad, strict=False) for record in pair] + good[-1:]

    handle(engine, ROOMS, mixed, attempts_max=3)

    assert set(allocations(engine).values()) == {"HELD"}
    assert len(allocations(engine)) == len(good)
    letters = open_letters(engine, ROOMS_GROUP)
    assert [letter.record for letter in letters] == bad
    assert all(letter.reason for letter in letters)
    assert {letter.attempts for letter in letters} == {1}


def test_a_batch_of_nothing_but_poison_is_set_aside(engine: Engine) -> None:
    """Even the largest: a statement has no more than 65,535 parameters."""
    bad = [garbage(b"x") for _ in range(10_000)]
    handle(engine, ROOMS, bad, attempts_max=3)

    with engine.connect() as connection:
        assert len(dead_letters.open_letters(connection, limit=20_000)) == 10_000


def test_redelivered_poison_is_the_same_dead_letter(engine: Engine) -> None:
    poison = garbage(b"x")
    handle(engine, ROOMS, [poison, poison], attempts_max=3)
    handle(engine, ROOMS, [poison], attempts_max=3)

    (letter,) = open_letters(engine)
    assert letter.record == poison


@pytest.mark.parametrize(
    "value", ["\0", "\\u0000", "a\\\\u0000b", "\\", '"', "\ud800", "é", "\N{GRINNING FACE}", ""]
)
def test_no_header_is_too_odd_to_be_kept(engine: Engine, value: str) -> None:
    """What Postgres cannot store is replaced; a dead letter that cannot be kept would stop all."""
    handle(engine, ROOMS, [garbage(b"x", {value or "empty": value})], attempts_max=3)

    (letter,) = open_letters(engine)
    storable = value.replace("\0", "?").replace("\ud800", "?")
    assert letter.record.headers == {storable or "empty": storable}


def test_an_unexpected_exception_costs_only_the_message_that_causes_it(engine: Engine) -> None:
    """It is found by cutting in two, tried a bounded number of times; the others keep their order."""
    open_rooms(engine, capacity=100)
    handler = Cursed(lambda: RuntimeError("half a surrogate \ud800 and a NUL \0"))
    apply(engine, handler, *(a_reserve(number, number) for number in range(1, 51)))

    others = [number for number in range(1, 51) if number != THIRTEEN]
    assert handler.applied == others
    assert list(allocations(engine)) == others
    (letter,) = open_letters(engine)
    assert letter.reason == "RuntimeError: half a surrogate ? and a NUL ?"
    assert letter.attempts == handler.tried == 3


def test_an_exception_that_ends_before_the_tries_do_costs_nothing(engine: Engine) -> None:
    open_rooms(engine)
    handler = Cursed(RuntimeError)

    def recover() -> Exception:
        if handler.tried == 2:
            handler.curse = lambda: pytest.fail("tried again")
            handler.apply = ROOMS.apply  # type: ignore[method-assign]
        return RuntimeError("not yet")

    handler.curse = recover
    apply(engine, handler, a_reserve(THIRTEEN))

    assert allocations(engine) == {THIRTEEN: "HELD"}
    assert not open_letters(engine)


def test_what_postgres_will_not_store_is_its_messages_fault(engine: Engine) -> None:
    """A constraint, a trigger: the statement fails, and the reason names it without the statement."""
    open_rooms(engine, capacity=100)
    constraint = f"CHECK (reservation_id <> {THIRTEEN})"
    execute(engine, f"ALTER TABLE rooms.allocation ADD CONSTRAINT unlucky {constraint}")
    apply(engine, ROOMS, *(a_reserve(number, number) for number in range(1, 21)))

    assert len(allocations(engine)) == 19
    (letter,) = open_letters(engine)
    assert letter.reason.startswith("CheckViolation: ")
    assert "unlucky" in letter.reason
    assert "INSERT" not in letter.reason


def test_a_contradiction_and_a_stranger_are_set_aside_and_the_others_settle(
    engine: Engine, results: ResultsHandler
) -> None:
    first, second = a_reservation(engine), a_reservation(engine)
    apply(
        engine,
        results,
        a_result(first.id, Answer.SUCCESS),
        a_result(first.id, Answer.FAILURE, "SOLD_OUT: no room"),
        a_result(999, Answer.SUCCESS),
        a_result(second.id, Answer.SUCCESS),
    )

    contradiction, stranger = open_letters(engine, RESULTS_GROUP)
    assert contradiction.reason.startswith("CONTRADICTING_ANSWER: FAILURE")
    assert stranger.reason.startswith("UNKNOWN_RESERVATION: 999")
    assert not open_letters(engine, ROOMS_GROUP)


def test_poison_in_a_topic_is_kept_with_its_place_and_holds_nobody_up(
    engine: Engine, settings: Settings
) -> None:
    """Topic without the cluster's prefix, partition, offset, key, value, headers, reason."""
    open_rooms(engine, capacity=100)
    headers = {"ce_id": str(uuid4()), "traceparent": "a\0b\\u0000"}
    poison = Record(ROOM_RESERVE, 1, 1, b"7", b"not JSON", headers)
    good = [a_record(a_reserve(number, number), partition=1) for number in range(1, 11)]
    publish(settings, [good[0], poison, *good[1:]])
    with a_consumer(settings, engine, ROOMS):
        eventually(lambda: len(allocations(engine)) == 10)

    (letter,) = open_letters(engine)
    stored = {**headers, "traceparent": "a?b\\u0000"}
    assert letter.record == Record(ROOM_RESERVE, 1, 1, b"7", b"not JSON", stored)
    assert letter.reason.startswith("NOT_JSON")
