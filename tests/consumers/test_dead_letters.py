"""Dead letters: poison among good messages, and what a message causes by no visible fault."""

from dataclasses import replace
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine
from structlog.testing import capture_logs

from consumers import dead_letters
from consumers.dead_letters import NoFreeId
from consumers.handling import handle, is_transient
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.answers import Answer
from domain.messages import (
    RESULTS_GROUP,
    ROOM_RESERVE,
    ROOMS_GROUP,
)
from innbox_process.records import Record
from ops.topics import create_topics
from runtime.settings import Settings
from tests.support.db_faults import execute
from tests.support.poison import THIRTEEN, Cursed, garbage, open_letters
from tests.support.saga import (
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
from tests.support.waiting import eventually

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


def test_a_known_dead_letter_stays_as_it_was_decided_and_is_reported(engine: Engine) -> None:
    """So nothing is dropped in silence, and no decision is asked for twice."""
    decisions = ["OPEN", "RETRIED", "DISCARDED"]
    poison = [garbage(b"x", {"trace": "a\\b\0"}) for _ in decisions]
    handle(engine, ROOMS, poison, attempts_max=3)
    letters = open_letters(engine)
    with engine.begin() as connection:
        for letter, decision in zip(letters[1:], decisions[1:], strict=True):
            dead_letters.decide(connection, letter, decision)

    with capture_logs() as logs:
        handle(engine, ROOMS, poison, attempts_max=3)
    assert {log["event"] for log in logs} == {"known dead letter redelivered"}
    assert [log["offset"] for log in logs] == [record.offset for record in poison]
    assert [(log["id"], log["state"]) for log in logs] == [
        (letter.id, decision) for letter, decision in zip(letters, decisions, strict=True)
    ]
    assert open_letters(engine) == letters[:1]


def test_other_poison_at_a_place_that_was_used_before_is_another_dead_letter(
    engine: Engine,
) -> None:
    """A topic that was deleted and created again begins at offset 0; all are kept and reported."""
    first = garbage(b"x", {"ce_id": "one"})
    others = [
        replace(first, value=b"y"),
        replace(first, value=None),
        replace(first, value=b""),
        replace(first, key=None),
        replace(first, key=b"x", value=b"7"),
        replace(first, key=None, value=b"7"),
        replace(first, key=b"7", value=None, headers={}),
        replace(first, headers={"ce_id": "another"}),
        replace(first, headers={"ce_id": "one", "x": "\\"}),
        replace(first, headers={}),
    ]
    with capture_logs() as logs:
        for record in (first, *others):
            handle(engine, ROOMS, [record], attempts_max=3)

    assert [letter.record for letter in open_letters(engine)] == [first, *others]
    assert [log["event"] for log in logs] == ["dead letter"] * 11
    assert len({record.message_id for record in (first, *others)}) == 11


def test_an_id_that_is_taken_costs_no_message(engine: Engine) -> None:
    """As after a restore that left the sequence behind: others are tried, and nobody is blamed."""
    open_rooms(engine)
    before = [garbage(b"x") for _ in range(7)]
    handle(engine, ROOMS, before, attempts_max=3)
    execute(engine, "SELECT setval('consumers.dead_letter_id_seq', 1, false)")
    after = [garbage(b"y"), garbage(b"z")]
    handle(engine, ROOMS, [after[0], a_record(a_reserve()), after[1]], attempts_max=3)

    assert [letter.record for letter in open_letters(engine)] == [*before, *after]
    assert allocations(engine) == {1: "HELD"}


def test_without_a_free_id_nothing_is_done_and_the_command_is_named(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is held back and not the message's fault; each try goes on where the last one ended."""
    open_rooms(engine)
    handle(engine, ROOMS, [garbage(b"x") for _ in range(5)], attempts_max=3)
    execute(engine, "SELECT setval('consumers.dead_letter_id_seq', 1, false)")
    monkeypatch.setattr(dead_letters, "IDS_TRIED_MAX", 3)
    batch = [a_record(a_reserve()), garbage(b"y")]
    with pytest.raises(NoFreeId, match="innbox outbox rebase") as refused:
        handle(engine, ROOMS, batch, attempts_max=3)
    assert is_transient(refused.value)
    assert allocations(engine) == {}

    handle(engine, ROOMS, batch, attempts_max=3)
    assert allocations(engine) == {1: "HELD"}
    assert len(open_letters(engine)) == 6


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


def test_poison_of_a_topic_that_was_created_again_is_kept_beside_that_of_the_old_one(
    engine: Engine, settings: Settings
) -> None:
    """The same partition, the same offset."""
    first = Record(ROOM_RESERVE, 1, 0, b"7", b"not JSON", {})
    second = replace(first, value=b"not JSON either")
    publish(settings, [first])
    with a_consumer(settings, engine, ROOMS):
        eventually(lambda: len(open_letters(engine)) == 1)

    topic = settings.kafka_prefix + ROOM_RESERVE
    admin = AdminClient(settings.kafka)
    admin.delete_topics([topic])[topic].result()
    eventually(lambda: topic not in admin.list_topics(timeout=10).topics)
    eventually(lambda: topic in {each.name for each in create_topics(settings) if each.created})
    publish(settings, [second])
    with a_consumer(settings, engine, ROOMS):
        eventually(lambda: len(open_letters(engine)) == 2)
    assert [letter.record for letter in open_letters(engine)] == [first, second]
