"""Idempotency keys in a real Postgres, in each context's schema, and as they are read from the header."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text

from api.problems import Invalid
from api.requests.idempotency import KEY_LENGTH_MAX, bare
from consumers import process
from domain.idempotency import RESERVATION_KEYS, Claimed, InFlight, KeyedRequest, Mismatch, Repeat

ANN, BEN = 42, 43
HOUR_S = 3_600.0
HASH, OTHER_HASH = b"\1" * 32, b"\2" * 32


def claim(connection: Connection, *, member_id: int = ANN, request_hash: bytes = HASH) -> object:
    return RESERVATION_KEYS.claim(connection, KeyedRequest(member_id, "christmas", request_hash))


def test_a_key_is_claimed_once_and_then_repeated(engine: Engine) -> None:
    with engine.begin() as connection:
        assert claim(connection) == Claimed()

    with engine.begin() as connection:
        assert claim(connection) == Repeat()


def test_a_key_belongs_to_its_member(engine: Engine) -> None:
    with engine.begin() as of_ann, engine.begin() as of_ben:
        assert claim(of_ann, member_id=ANN) == Claimed()
        assert claim(of_ben, member_id=BEN) == Claimed()


def test_a_key_used_for_another_request_is_a_mismatch(engine: Engine) -> None:
    with engine.begin() as connection:
        claim(connection)

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
    """A lock that another repeat holds does not make a key that was used look in flight."""
    with engine.begin() as connection:
        claim(connection)

    with engine.begin() as first, engine.begin() as second:
        assert claim(first) == claim(second) == Repeat()


def test_of_many_at_once_exactly_one_claims(engine: Engine) -> None:
    def attempt(_: int) -> object:
        with engine.begin() as connection:
            return claim(connection)

    for _ in range(20):
        with ThreadPoolExecutor(5) as pool:
            outcomes = list(pool.map(attempt, range(1, 11)))
        assert outcomes.count(Claimed()) == 1
        assert all(one in {Claimed(), InFlight(), Repeat()} for one in outcomes)
        forget_all(engine)


def forget_all(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE reservations.idempotency_key"))


def test_old_keys_are_forgotten(engine: Engine) -> None:
    with engine.begin() as connection:
        claim(connection)
        connection.execute(
            text("UPDATE reservations.idempotency_key SET created_at = now() - interval '25 hours'")
        )

        assert RESERVATION_KEYS.forget(connection, 26 * HOUR_S, 10) == 0
        assert RESERVATION_KEYS.forget(connection, 24.9 * HOUR_S, 10) == 1


def test_old_keys_are_deleted_in_chunks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a transaction of its own, so that no statement grows with what is old."""
    monkeypatch.setattr(process, "KEYS_CHUNK_SIZE", 2)
    with engine.begin() as connection:
        for member_id in range(1, 6):
            claim(connection, member_id=member_id)
        aged = "UPDATE reservations.idempotency_key SET created_at = now() - interval '1 minute'"
        connection.execute(text(aged))
        claim(connection, member_id=6)
    chunks = 0

    @event.listens_for(engine, "commit")
    def count(_: Connection) -> None:
        nonlocal chunks
        chunks += 1

    assert process.delete_old_keys_once(engine, RESERVATION_KEYS, HOUR_S) == 0
    assert process.delete_old_keys_once(engine, RESERVATION_KEYS, 30.0) == 5
    assert chunks == 1 + 3
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT member_id FROM reservations.idempotency_key")) == 6


# The header.


@pytest.mark.unit
@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ('ab"c', 'ab"c'),
        ('"' + "x" * KEY_LENGTH_MAX + '"', "x" * KEY_LENGTH_MAX),
    ],
)
def test_a_key_is_the_same_with_and_without_quotes(header: str, key: str) -> None:
    assert bare(header) == key


@pytest.mark.unit
@pytest.mark.parametrize(
    "header",
    ['"abc', '"a"b"', r'"a\b"', '"a\\"', '"\x7f"', '"ü"', '""', '"', "x" * (KEY_LENGTH_MAX + 1)],
)
def test_a_key_that_is_no_string_is_refused(header: str) -> None:
    with pytest.raises(Invalid) as refused:
        bare(header)
    assert refused.value.problem.errors[0].header == "Idempotency-Key"


@pytest.mark.unit
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_every_key_can_be_quoted(key: str) -> None:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert bare(f'"{escaped}"') == key
