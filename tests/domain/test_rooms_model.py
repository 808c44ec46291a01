"""How the rooms decide: exactly one effect per reservation, whatever arrives and how often."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.answers import Answer, ReasonCode, RequestKind, RoomRequest
from domain.rooms.model import Outcome, Result, Rooms, State, decide, touched
from domain.rooms.nights import (
    Availability,
    Held,
    NightKey,
    Refused,
    RoomNight,
    availability,
    hold,
)
from domain.stay import Stay

pytestmark = pytest.mark.unit

EVE = date(2026, 12, 24)
CHRISTMAS = Stay(EVE, date(2026, 12, 27))
ALPINE, SEASIDE, UNBUILT = 7, 8, 99


def a_request(
    kind: RequestKind,
    reservation_id: int,
    message: int,
    *,
    room_id: int = ALPINE,
    stay: Stay = CHRISTMAS,
) -> RoomRequest:
    return RoomRequest(kind, reservation_id, room_id, stay, UUID(int=message))


def a_reserve(
    reservation_id: int = 1, message: int = 1, *, room_id: int = ALPINE, stay: Stay = CHRISTMAS
) -> RoomRequest:
    return a_request(RequestKind.RESERVE, reservation_id, message, room_id=room_id, stay=stay)


def a_cancel(
    reservation_id: int = 1, message: int = 2, *, room_id: int = ALPINE, stay: Stay = CHRISTMAS
) -> RoomRequest:
    return a_request(RequestKind.CANCEL, reservation_id, message, room_id=room_id, stay=stay)


def a_hotel(*, capacity: int = 1, taken: int = 0, nights: int = 7) -> Rooms:
    """Two rooms, open for a week from Christmas Eve."""
    opened = [
        RoomNight(room_id, EVE + timedelta(days=day), capacity, taken)
        for room_id in (ALPINE, SEASIDE)
        for day in range(nights)
    ]
    return Rooms({}, {night.key: night for night in opened}, frozenset({ALPINE, SEASIDE}))


def after(rooms: Rooms, outcome: Outcome) -> Rooms:
    decided = (*outcome.created, *outcome.changed)
    return Rooms(
        {**rooms.allocations, **{one.reservation_id: one for one in decided}},
        {**rooms.nights, **{night.key: night for night in outcome.nights}},
        rooms.known_rooms,
    )


def arrived(rooms: Rooms, batches: Iterable[Sequence[RoomRequest]]) -> tuple[Rooms, list[Result]]:
    results: list[Result] = []
    for batch in batches:
        outcome = decide(rooms, batch)
        rooms = after(rooms, outcome)
        results += outcome.results
    return rooms, results


def inventory_after(deliveries: Sequence[RoomRequest], *, capacity: int = 2) -> Rooms:
    return arrived(a_hotel(capacity=capacity), [[one] for one in deliveries])[0]


def taken(rooms: Rooms) -> dict[NightKey, int]:
    return {key: night.taken for key, night in rooms.nights.items() if night.taken}


ALPINE_AT_CHRISTMAS = {(ALPINE, night): 1 for night in CHRISTMAS.nights}
SUCCESS, CANCELLED = Result(1, Answer.SUCCESS), Result(1, Answer.CANCEL)
SOLD_OUT = Result(1, Answer.FAILURE, "SOLD_OUT: no room left on 2026-12-24, 2026-12-25, 2026-12-26")


def held() -> Rooms:
    return inventory_after([a_reserve(message=1)], capacity=1)


def refused() -> Rooms:
    return arrived(a_hotel(capacity=0), [[a_reserve(message=1)]])[0]


def released() -> Rooms:
    return inventory_after([a_reserve(message=1), a_cancel(message=2)], capacity=1)


def tombstone() -> Rooms:
    return inventory_after([a_cancel(message=2)], capacity=1)


@pytest.mark.parametrize(
    ("before", "arrives", "state", "results"),
    [
        (a_hotel(), a_reserve(message=1), State.HELD, [SUCCESS]),
        (a_hotel(capacity=0), a_reserve(message=1), State.REFUSED, [SOLD_OUT]),
        (held(), a_reserve(message=1), State.HELD, []),
        (held(), a_reserve(message=9), State.HELD, [SUCCESS]),
        (refused(), a_reserve(message=1), State.REFUSED, []),
        (refused(), a_reserve(message=9), State.REFUSED, [SOLD_OUT]),
        (released(), a_reserve(message=1), State.RELEASED, [CANCELLED]),
        (released(), a_reserve(message=9), State.RELEASED, [CANCELLED]),
        (tombstone(), a_reserve(message=1), State.RELEASED, [CANCELLED]),
        (a_hotel(), a_cancel(message=2), State.RELEASED, [CANCELLED]),
        (held(), a_cancel(message=2), State.RELEASED, [CANCELLED]),
        (refused(), a_cancel(message=2), State.RELEASED, [CANCELLED]),
        (released(), a_cancel(message=2), State.RELEASED, []),
        (released(), a_cancel(message=9), State.RELEASED, [CANCELLED]),
        (tombstone(), a_cancel(message=2), State.RELEASED, []),
        (tombstone(), a_cancel(message=9), State.RELEASED, [CANCELLED]),
    ],
)
def test_a_request_is_decided_as_the_table_says(
    before: Rooms, arrives: RoomRequest, state: State, results: list[Result]
) -> None:
    outcome = decide(before, [arrives])

    now = after(before, outcome)
    assert list(outcome.results) == results
    assert now.allocations[1].state is state
    assert taken(now) == (ALPINE_AT_CHRISTMAS if state is State.HELD else {})


@pytest.mark.parametrize(
    ("before", "arrives"),
    [
        (held(), a_reserve(message=9)),
        (refused(), a_reserve(message=9)),
        (released(), a_reserve(message=9)),
        (released(), a_cancel(message=9)),
    ],
)
def test_answering_again_writes_nothing(before: Rooms, arrives: RoomRequest) -> None:
    outcome = decide(before, [arrives])

    assert (outcome.created, outcome.changed, outcome.nights) == ((), (), ())


def test_a_cancel_gives_back_every_night() -> None:
    """The system that this one replaces gave back those of [check-in, check-in): none."""
    before = a_hotel()
    booked, _ = arrived(before, [[a_reserve()]])
    assert taken(booked) == ALPINE_AT_CHRISTMAS

    given_back, _ = arrived(booked, [[a_cancel()]])

    assert given_back.nights == before.nights


def test_a_cancel_gives_back_what_was_taken_not_what_it_names() -> None:
    """The allocation is the truth: the fields of a cancel may be wrong."""
    new_year = Stay(date(2026, 12, 29), date(2026, 12, 31))
    mistaken = a_cancel(room_id=SEASIDE, stay=new_year)

    assert taken(inventory_after([a_reserve(), mistaken])) == {}


def test_a_second_reserve_for_other_nights_holds_nothing_more() -> None:
    elsewhere = a_reserve(message=9, room_id=SEASIDE)

    now, results = arrived(a_hotel(), [[a_reserve(), elsewhere]])

    assert taken(now) == ALPINE_AT_CHRISTMAS
    assert results == [SUCCESS, SUCCESS]


def test_a_cancel_that_overtakes_its_reserve_wins() -> None:
    """Two topics have no common order."""
    now, results = arrived(a_hotel(), [[a_cancel()], [a_reserve()]])

    assert taken(now) == {}
    assert results == [CANCELLED, CANCELLED]


def test_a_batch_sees_what_its_own_messages_did() -> None:
    """The last room goes to the first, comes back, and goes to the third."""
    batch = [
        a_reserve(1, message=1),
        a_reserve(2, message=2),
        a_cancel(1, message=3),
        a_reserve(3, message=4),
    ]

    outcome = decide(a_hotel(capacity=1), batch)

    assert [(one.reservation_id, one.answer) for one in outcome.results] == [
        (1, Answer.SUCCESS),
        (2, Answer.FAILURE),
        (1, Answer.CANCEL),
        (3, Answer.SUCCESS),
    ]
    assert {night.key: night.taken for night in outcome.nights} == ALPINE_AT_CHRISTMAS


def test_a_night_taken_and_given_back_within_a_batch_is_not_written() -> None:
    outcome = decide(a_hotel(), [a_reserve(), a_cancel()])

    assert outcome.nights == ()
    assert [one.state for one in outcome.created] == [State.RELEASED]
    assert outcome.changed == ()


def test_a_room_nobody_built_is_refused_and_remembered() -> None:
    outcome = decide(a_hotel(), [a_reserve(room_id=UNBUILT)])

    assert outcome.results == (Result(1, Answer.FAILURE, "UNKNOWN_ROOM: there is no such room"),)
    assert outcome.created[0].state is State.REFUSED


def test_a_night_that_is_not_open_is_refused() -> None:
    outcome = decide(a_hotel(nights=2), [a_reserve()])

    assert outcome.results == (
        Result(1, Answer.FAILURE, "NIGHT_NOT_OPEN: not open for reservation on 2026-12-26"),
    )
    assert outcome.nights == ()


def test_a_refusal_names_ten_nights_and_counts_the_rest() -> None:
    nights = tuple(EVE + timedelta(days=day) for day in range(365))

    message = Refused(ReasonCode.SOLD_OUT, nights).message

    assert message.endswith("2027-01-02 and 355 more")


def test_deciding_leaves_its_input_alone() -> None:
    before = a_hotel()

    decide(before, [a_reserve()])

    assert before == a_hotel()


@pytest.mark.parametrize(
    ("before", "arrives", "keys"),
    [
        (a_hotel(), a_reserve(), [*ALPINE_AT_CHRISTMAS, (ALPINE, CHRISTMAS.check_out)]),
        (held(), a_reserve(message=9), []),
        (held(), a_cancel(room_id=SEASIDE), list(ALPINE_AT_CHRISTMAS)),
        (released(), a_cancel(message=9), []),
        (a_hotel(), a_cancel(), []),
    ],
)
def test_only_nights_that_may_change_and_the_day_of_departure_are_locked(
    before: Rooms, arrives: RoomRequest, keys: list[NightKey]
) -> None:
    assert touched(before.allocations, [arrives]) == keys


# Properties: a small hotel and few reservations, so that they meet often.

stays = st.builds(
    lambda first, length: Stay(EVE + timedelta(days=first), EVE + timedelta(days=first + length)),
    st.integers(0, 6),
    st.integers(1, 4),
)
rooms_wanted = st.sampled_from([ALPINE, SEASIDE, UNBUILT])


@st.composite
def sagas(draw: st.DrawFn) -> list[RoomRequest]:
    """The requests of up to six reservations: reserve, re-drive, cancel, each its own message."""
    requests = []
    for reservation_id in range(1, draw(st.integers(1, 6)) + 1):
        stay, room_id = draw(stays), draw(rooms_wanted)
        for number, kind in enumerate(
            (RequestKind.RESERVE, RequestKind.RESERVE, RequestKind.CANCEL, RequestKind.CANCEL)
        ):
            message = reservation_id * 10 + number
            requests.append(a_request(kind, reservation_id, message, room_id=room_id, stay=stay))
    return requests


deliveries_of_sagas = sagas().flatmap(lambda saga: st.lists(st.sampled_from(saga), max_size=40))


def unique(deliveries: Sequence[RoomRequest]) -> list[RoomRequest]:
    return list(dict.fromkeys(deliveries))


def cut(deliveries: Sequence[RoomRequest], cuts: Iterable[int]) -> list[Sequence[RoomRequest]]:
    edges = [0, *sorted(min(at, len(deliveries)) for at in cuts), len(deliveries)]
    return [deliveries[start:end] for start, end in pairwise(edges)]


@given(deliveries_of_sagas)
def test_redelivery_never_changes_the_inventory(deliveries: list[RoomRequest]) -> None:
    """Any message may arrive any number of times, at any later time."""
    assert inventory_after(deliveries) == inventory_after(unique(deliveries))


@given(deliveries_of_sagas)
def test_asking_again_has_the_effect_of_asking_once(deliveries: list[RoomRequest]) -> None:
    """A re-driven request is another message of the same reservation."""
    first = {(one.reservation_id, one.kind): one for one in reversed(deliveries)}
    once = [one for one in unique(deliveries) if first[one.reservation_id, one.kind] == one]

    assert inventory_after(deliveries) == inventory_after(once)


@given(deliveries_of_sagas, st.lists(st.integers(0, 40)))
def test_batches_decide_as_single_messages_do(
    deliveries: list[RoomRequest], cuts: list[int]
) -> None:
    one_by_one = arrived(a_hotel(capacity=2), [[one] for one in deliveries])

    assert arrived(a_hotel(capacity=2), cut(deliveries, cuts)) == one_by_one


@given(deliveries_of_sagas)
def test_taken_is_the_number_of_held_allocations(deliveries: list[RoomRequest]) -> None:
    now = inventory_after(deliveries)

    holding = [one for one in now.allocations.values() if one.state is State.HELD]
    assert taken(now) == Counter(key for one in holding for key in one.night_keys)


@given(deliveries_of_sagas)
def test_no_night_is_ever_over_its_capacity(deliveries: list[RoomRequest]) -> None:
    for length in range(len(deliveries) + 1):
        now = inventory_after(deliveries[:length], capacity=1)
        assert all(0 <= night.taken <= night.capacity for night in now.nights.values())


@given(deliveries_of_sagas)
def test_cancelling_everything_frees_everything(deliveries: list[RoomRequest]) -> None:
    cancels = [a_cancel(one.reservation_id, message=1_000) for one in deliveries]

    assert taken(inventory_after([*deliveries, *cancels])) == {}


@given(deliveries_of_sagas)
def test_every_reservation_is_answered_and_never_both_ways(
    deliveries: list[RoomRequest],
) -> None:
    """A member is never told SUCCESS and FAILURE."""
    _, results = arrived(a_hotel(capacity=1), [deliveries])

    told = {(one.reservation_id, one.answer) for one in results}
    assert {id_ for id_, _ in told} == {one.reservation_id for one in deliveries}
    assert not any({(id_, Answer.SUCCESS), (id_, Answer.FAILURE)} <= told for id_, _ in told)


@given(deliveries_of_sagas)
def test_decide_stays_within_what_was_locked(deliveries: list[RoomRequest]) -> None:
    """Rooms that hold no other nights than `touched` decide the same."""
    hotel = a_hotel(capacity=2)
    locked = {
        key: hotel.nights[key]
        for key in touched(hotel.allocations, deliveries)
        if key in hotel.nights
    }

    assert decide(replace(hotel, nights=locked), deliveries) == decide(hotel, deliveries)


nights_of_a_week = st.lists(
    st.builds(
        lambda day, capacity, taken: RoomNight(
            ALPINE, EVE + timedelta(days=day), capacity, min(capacity, taken)
        ),
        st.integers(0, 9),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    unique_by=lambda night: night.on,
).map(lambda nights: sorted(nights, key=lambda night: night.on))


@given(nights_of_a_week, stays)
def test_hold_takes_all_nights_or_none(opened: list[RoomNight], stay: Stay) -> None:
    covered = [night for night in opened if night.on in stay.nights]

    match hold(covered, stay):
        case Held(nights):
            assert {night.on for night in nights} == set(stay.nights)
            assert [night.taken for night in nights] == [night.taken + 1 for night in covered]
        case Refused(_, nights):
            free = {night.on for night in covered if night.free}
            assert nights
            assert free.isdisjoint(nights)


@given(nights_of_a_week, stays)
def test_availability_promises_what_hold_does(opened: list[RoomNight], stay: Stay) -> None:
    covered = [night for night in opened if night.on in stay.nights]

    seen = availability(covered, stay, known_room=True)

    assert seen.bookable == isinstance(hold(covered, stay), Held)
    assert seen.bookable == (seen.minimum_free > 0) == (seen.failing == ())


def test_availability_says_which_nights_are_in_the_way() -> None:
    opened = [RoomNight(ALPINE, EVE, 2, 1), RoomNight(ALPINE, EVE + timedelta(days=1), 2, 2)]

    assert availability(opened, CHRISTMAS, known_room=True) == Availability(
        bookable=False,
        minimum_free=0,
        failing=(
            (date(2026, 12, 25), ReasonCode.SOLD_OUT),
            (date(2026, 12, 26), ReasonCode.NIGHT_NOT_OPEN),
        ),
    )


def test_availability_of_an_unknown_room_says_so() -> None:
    seen = availability([], CHRISTMAS, known_room=False)

    assert {reason for _, reason in seen.failing} == {ReasonCode.UNKNOWN_ROOM}
