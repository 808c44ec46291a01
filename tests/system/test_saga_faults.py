"""The rooms' side under redelivery, disorder and concurrency: one effect, all nights, never too much."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from consumers.dead_letters import open_letters
from consumers.handling import handle
from consumers.rooms import RoomsHandler
from domain.stay import Stay
from innbox_process.records import Record
from tests.support.saga import (
    CHRISTMAS,
    EVE,
    SEASIDE,
    a_cancel,
    a_record,
    a_reserve,
    allocations,
    answers,
    apply,
    apply_patiently,
    causes,
    open_rooms,
    overheld,
    records,
    taken,
)

ROOMS = RoomsHandler()
# Four reservations for two rooms of a kind and overlapping stays; two of them are cancelled, one twice.
LATER = Stay(EVE + timedelta(days=1), EVE + timedelta(days=4))
SAGA = [
    a_record(message, offset=offset)
    for offset, message in enumerate(
        [
            a_reserve(1, 1),
            a_reserve(2, 2, stay=LATER),
            a_reserve(3, 3, room_id=SEASIDE),
            a_reserve(4, 4, stay=LATER),
            a_cancel(1, 5),
            a_cancel(2, 6, stay=LATER),
            a_cancel(2, 7, stay=LATER),
        ]
    )
]


def deliveries() -> st.SearchStrategy[list[Record]]:
    """Any of the messages, any number of times, in any order."""
    return st.lists(st.sampled_from(SAGA), min_size=1, max_size=20)


def start_anew(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in ("rooms.allocation", "outbox.message"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("UPDATE rooms.room_night SET taken = 0"))


def outcome(engine: Engine, batches: Sequence[Sequence[Record]]) -> object:
    """What is held and taken after these batches, from an empty inventory with room for all."""
    start_anew(engine)
    for batch in batches:
        handle(engine, ROOMS, batch, attempts_max=3)
    with engine.connect() as connection:
        assert not overheld(connection)
        assert not open_letters(connection)
    return allocations(engine), taken(engine), taken(engine, SEASIDE)


def cut(records: list[Record], lengths: list[int]) -> list[list[Record]]:
    batches, rest = [], records
    for length in lengths:
        batches.append(rest[:length])
        rest = rest[length:]
    return [batch for batch in (*batches, rest) if batch]


@given(delivered=deliveries(), lengths=st.lists(st.integers(1, 5), max_size=6))
@examples(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redelivery_in_any_order_and_any_batches_has_one_effect(
    engine: Engine, delivered: list[Record], lengths: list[int]
) -> None:
    """The inventory is that of each message once. Every request is answered, and held at most once."""
    open_rooms(engine, capacity=4)
    once = list(dict.fromkeys(record.offset for record in delivered))
    expected = outcome(engine, [[SAGA[offset] for offset in sorted(once)]])

    assert outcome(engine, cut(delivered, lengths)) == expected
    assert set(causes(engine)) == {record.headers["ce_id"] for record in delivered}
    held = [reservation for reservation, answer in answers(engine) if answer == "SUCCESS"]
    assert len(held) == len(set(held))


@given(delivered=deliveries(), lengths=st.lists(st.integers(1, 5), max_size=6))
@examples(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_a_stream_is_cut_into_batches_does_not_matter(
    engine: Engine, delivered: list[Record], lengths: list[int]
) -> None:
    """Even with one room left, where the order decides who gets it."""
    open_rooms(engine, capacity=1)

    at_once = outcome(engine, [delivered]), answers(engine)
    assert (outcome(engine, cut(delivered, lengths)), answers(engine)) == at_once


def test_a_cancel_gives_back_every_night_of_the_stay(engine: Engine) -> None:
    """The system this replaces gave back the nights of [check-in, check-in): none."""
    open_rooms(engine)
    apply(engine, ROOMS, a_reserve(1, 1))
    assert taken(engine) == dict.fromkeys(CHRISTMAS.nights, 1)

    apply(engine, ROOMS, a_cancel(1, 2))
    assert taken(engine) == {}
    assert answers(engine) == [(1, "SUCCESS"), (1, "CANCEL")]


def test_a_cancel_before_its_reserve_leaves_nothing_held(engine: Engine) -> None:
    open_rooms(engine)
    apply(engine, ROOMS, a_cancel(1, 2))
    apply(engine, ROOMS, a_reserve(1, 1))

    assert taken(engine) == {}
    assert allocations(engine) == {1: "RELEASED"}
    assert answers(engine) == [(1, "CANCEL"), (1, "CANCEL")]


def test_a_room_that_was_given_back_can_be_had_again(engine: Engine) -> None:
    open_rooms(engine, capacity=1)
    apply(engine, ROOMS, a_reserve(1, 1), a_reserve(2, 2), a_cancel(1, 3), a_reserve(3, 4))

    assert [answer for _, answer in answers(engine)] == ["SUCCESS", "FAILURE", "CANCEL", "SUCCESS"]
    assert allocations(engine) == {1: "RELEASED", 2: "REFUSED", 3: "HELD"}


def test_a_result_carries_its_cause_and_its_trace(engine: Engine) -> None:
    open_rooms(engine)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = a_reserve(1, 1)
    handle(engine, ROOMS, [a_record(request, traceparent=trace)], attempts_max=3)

    with engine.connect() as connection:
        headers = connection.execute(text("SELECT headers FROM outbox.message")).scalar_one()
    assert headers["ce_causationid"] == str(request.message_id)
    assert headers["traceparent"] == trace


def test_a_trace_that_is_none_is_not_passed_on(engine: Engine) -> None:
    """Nothing of a sender's may make an answer too large to be sent."""
    open_rooms(engine)
    handle(engine, ROOMS, [a_record(a_reserve(), traceparent="x" * 900_000)], attempts_max=3)

    with engine.connect() as connection:
        headers = connection.execute(text("SELECT headers FROM outbox.message")).scalar_one()
    assert "traceparent" not in headers


def test_the_last_room_is_sold_once_however_many_want_it_at_once(engine: Engine) -> None:
    """Four consumers, two hundred reservations of overlapping stays, one room."""
    open_rooms(engine, capacity=1)
    stays = [Stay(EVE + timedelta(days=day), EVE + timedelta(days=day + 3)) for day in range(4)]
    wanted = [a_reserve(number, number, stay=stays[number % 4]) for number in range(1, 201)]
    batches = [records(*wanted[first::20]) for first in range(20)]

    work_at_once(engine, batches)

    assert set(taken(engine).values()) == {1}
    assert len(allocations(engine)) == 200
    assert sorted(causes(engine)) == sorted(str(request.message_id) for request in wanted)
    assert_consistent(engine)


def test_reserves_and_cancels_that_meet_head_on_release_all(engine: Engine) -> None:
    """Two topics have no common order: each consumer may be the first to see a reservation."""
    open_rooms(engine, capacity=200)
    reserves = [a_reserve(number, number) for number in range(1, 201)]
    cancels = [a_cancel(number, 1_000 + number) for number in range(1, 201)]
    batches = [
        records(*topic[first : first + 25])
        for half in range(0, 200, 50)
        for topic in (reserves, cancels)
        for first in (half, half + 25)
    ]

    work_at_once(engine, batches)

    assert set(allocations(engine).values()) == {"RELEASED"}
    assert taken(engine) == {}
    assert_consistent(engine)


def work_at_once(engine: Engine, batches: list[list[Record]]) -> None:
    """Have four consumers take the batches in turn, each beginning at the same instant."""
    start = Barrier(4)

    def work(ours: list[list[Record]]) -> None:
        start.wait()
        for batch in ours:
            apply_patiently(engine, ROOMS, batch)

    with ThreadPoolExecutor(4) as consumers:
        for done in [consumers.submit(work, batches[first::4]) for first in range(4)]:
            done.result()


def assert_consistent(engine: Engine) -> None:
    with engine.connect() as connection:
        assert not overheld(connection)
        assert not open_letters(connection)
