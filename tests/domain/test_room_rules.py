"""The rules of room nights: who may be had when, in which order reasons are said, what a change does."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.answers import ReasonCode
from domain.rooms.change import (
    MIN_STAY_MAX,
    BelowTaken,
    Change,
    Changed,
    InvalidRange,
    NightsSet,
    Weekday,
    WithoutCapacity,
    decide,
    nights_of,
)
from domain.rooms.nights import (
    NIGHTS_NAMED_MAX,
    Held,
    NightKey,
    Refused,
    RoomNight,
    availability,
    hold,
)
from domain.stay import Stay

pytestmark = pytest.mark.unit

EVE = date(2026, 12, 24)  # a Thursday
NEW_YEAR = date(2027, 1, 1)
CHRISTMAS = Stay(EVE, date(2026, 12, 27))
ALPINE, SEASIDE = 7, 8


def a_night(day: int = 0, **rules: Any) -> RoomNight:
    return replace(RoomNight(ALPINE, EVE + timedelta(days=day), capacity=2, taken=1), **rules)


def a_week(**of_days: dict[str, Any]) -> list[RoomNight]:
    """Seven nights with a room free; `day2={"closed": True}` has rules for the third."""
    return [a_night(day, **of_days.get(f"day{day}", {})) for day in range(7)]


def reasons(nights: Sequence[RoomNight], stay: Stay = CHRISTMAS) -> list[tuple[int, str]]:
    """The days in the way, counted from Christmas Eve, and why."""
    seen = availability(nights, stay, known_room=True)
    return [((night - EVE).days, reason.value) for night, reason in seen.failing]


def refusal(nights: Sequence[RoomNight], stay: Stay = CHRISTMAS) -> str:
    match hold(nights, stay):
        case Refused() as refused:
            return refused.message
        case Held():
            return ""


@pytest.mark.parametrize(
    ("nights", "message"),
    [
        (a_week(), ""),
        (a_week()[:2], "NIGHT_NOT_OPEN: not open for reservation on 2026-12-26"),
        (a_week(day1={"closed": True}), "CLOSED: closed on 2026-12-25"),
        (a_week(day0={"closed_to_arrival": True}), "CLOSED_TO_ARRIVAL: no arrival on 2026-12-24"),
        (
            a_week(day3={"closed_to_departure": True}),
            "CLOSED_TO_DEPARTURE: no departure on 2026-12-27",
        ),
        (a_week(day0={"min_stay": 4}), "MIN_STAY: 4 nights or more from 2026-12-24"),
        (a_week(day2={"taken": 2}), "SOLD_OUT: no room left on 2026-12-26"),
    ],
)
def test_a_stay_is_refused_with_its_code_and_its_nights(
    nights: list[RoomNight], message: str
) -> None:
    assert refusal(nights) == message


@pytest.mark.parametrize(
    "nights",
    [
        a_week(day1={"closed_to_arrival": True, "closed_to_departure": True, "min_stay": 365}),
        a_week(day0={"min_stay": 3, "closed_to_departure": True}),
        a_week(day3={"closed": True, "closed_to_arrival": True, "min_stay": 365, "taken": 2}),
        a_week()[:3],
    ],
    ids=["of later nights", "just long enough", "of the day of departure", "no such day"],
)
def test_rules_that_are_not_for_this_stay_do_not_refuse_it(nights: list[RoomNight]) -> None:
    """Arrival and the shortest stay are judged by check-in alone; nobody sleeps on the last day."""
    assert refusal(nights) == ""
    assert reasons(nights) == []


def test_each_night_says_its_first_reason_and_the_refusal_the_first_of_all() -> None:
    nights = a_week(
        day0={"closed_to_arrival": True, "min_stay": 5, "taken": 2},
        day1={"taken": 2},
        day2={"closed": True, "taken": 2},
        day3={"closed_to_departure": True},
    )

    assert reasons(nights) == [
        (0, "CLOSED_TO_ARRIVAL"),
        (1, "SOLD_OUT"),
        (2, "CLOSED"),
        (3, "CLOSED_TO_DEPARTURE"),
    ]
    assert refusal(nights) == "CLOSED: closed on 2026-12-26"


def test_reasons_are_said_in_one_order_whatever_else_applies() -> None:
    """Taken away one by one, each uncovers the next."""
    everything = a_week(
        day0={"closed_to_arrival": True, "min_stay": 5},
        day1={"closed": True},
        day2={"taken": 2},
        day3={"closed_to_departure": True},
    )
    lifted: list[tuple[int, dict[str, Any]]] = [
        (6, {"capacity": 2}),  # no rule of the stay, which has a night too few at first
        (1, {"closed": False}),
        (0, {"closed_to_arrival": False}),
        (3, {"closed_to_departure": False}),
        (0, {"min_stay": 1}),
        (2, {"taken": 1}),
    ]
    said = [refusal([night for night in everything if night.on != EVE + timedelta(days=1)])]
    for day, rules in lifted:
        everything[day] = replace(everything[day], **rules)
        said.append(refusal(everything))

    assert [message.partition(":")[0] for message in said] == [
        *[reason.value for reason in ReasonCode if reason is not ReasonCode.UNKNOWN_ROOM],
        "",
    ]


def test_a_stay_of_many_closed_nights_names_some_and_counts_the_rest() -> None:
    nights = [a_night(day, closed=True) for day in range(365)]

    message = refusal(nights, Stay(EVE, EVE + timedelta(days=365)))

    assert message.count("20") == NIGHTS_NAMED_MAX
    assert message.endswith(f"and {365 - NIGHTS_NAMED_MAX} more")


def test_free_rooms_are_counted_whatever_the_rules_say() -> None:
    seen = availability(a_week(day1={"closed": True}), CHRISTMAS, known_room=True)

    assert (seen.bookable, seen.minimum_free) == (False, 1)


# Properties: few days, few rooms and rules that meet often.

room_nights = st.builds(
    lambda day, capacity, taken, closed, min_stay, arrival, departure: RoomNight(
        ALPINE,
        EVE + timedelta(days=day),
        capacity,
        min(capacity, taken),
        closed,
        min_stay,
        arrival,
        departure,
    ),
    st.integers(0, 9),
    st.integers(0, 2),
    st.integers(0, 2),
    st.booleans(),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
calendars = st.lists(room_nights, unique_by=lambda night: night.on, max_size=10).map(
    lambda nights: sorted(nights, key=lambda night: night.on)
)
stays = st.builds(
    lambda first, length: Stay(EVE + timedelta(days=first), EVE + timedelta(days=first + length)),
    st.integers(0, 6),
    st.integers(1, 4),
)


def of_stay(nights: Sequence[RoomNight], stay: Stay) -> list[RoomNight]:
    """What is locked for a stay: its nights and the day of check-out."""
    return [night for night in nights if stay.check_in <= night.on <= stay.check_out]


@given(calendars, stays)
def test_what_is_bookable_is_held_and_nothing_else(nights: list[RoomNight], stay: Stay) -> None:
    """And both say the same first reason, of the same nights."""
    opened = of_stay(nights, stay)
    seen = availability(opened, stay, known_room=True)

    match hold(opened, stay):
        case Held(held):
            assert (seen.bookable, seen.failing) == (True, ())
            assert seen.minimum_free > 0
            assert [night.on for night in held] == list(stay.nights)
        case Refused(code, named):
            assert not seen.bookable
            order = list(ReasonCode)
            assert code == min((reason for _, reason in seen.failing), key=order.index)
            assert named == tuple(night for night, reason in seen.failing if reason is code)


@given(calendars, stays)
def test_holding_takes_one_of_each_night_and_changes_no_rule(
    nights: list[RoomNight], stay: Stay
) -> None:
    opened = of_stay(nights, stay)

    match hold(opened, stay):
        case Held(held):
            given_back = tuple(night.given_back() for night in held)
            assert given_back == tuple(night for night in opened if night.on != stay.check_out)
        case Refused():
            pass


@given(calendars, stays)
def test_without_rules_only_what_is_not_there_stands_in_the_way(
    nights: list[RoomNight], stay: Stay
) -> None:
    plain = [RoomNight(*night.key, night.capacity, night.taken) for night in of_stay(nights, stay)]

    seen = availability(plain, stay, known_room=True)

    assert {reason for _, reason in seen.failing} <= {
        ReasonCode.NIGHT_NOT_OPEN,
        ReasonCode.SOLD_OUT,
    }
    assert seen.bookable == (seen.minimum_free > 0)


@given(calendars, stays, st.data())
def test_a_rule_more_never_makes_a_stay_bookable(
    nights: list[RoomNight], stay: Stay, data: st.DataObject
) -> None:
    rule: dict[str, Any] = data.draw(
        st.sampled_from(
            [
                {"closed": True},
                {"min_stay": MIN_STAY_MAX},
                {"closed_to_arrival": True},
                {"closed_to_departure": True},
            ]
        )
    )
    stricter = [replace(night, **rule) for night in of_stay(nights, stay)]

    if not availability(of_stay(nights, stay), stay, known_room=True).bookable:
        assert not availability(stricter, stay, known_room=True).bookable


# Changes of the calendar.

WEEK = nights_of(EVE, EVE + timedelta(days=7))


def changed(nights: Sequence[RoomNight], *changes: Change) -> tuple[list[RoomNight], list[Changed]]:
    """All nights as they are after the changes, and the outcomes."""
    before = {night.key: night for night in nights}
    saved, outcomes = decide(before, changes)
    return sorted({**before, **saved}.values(), key=lambda night: night.key), outcomes


def test_a_new_night_has_no_rule_that_was_not_asked_for() -> None:
    nights, outcomes = changed([], Change(ALPINE, (EVE,), capacity=3, closed_to_arrival=True))

    assert nights == [RoomNight(ALPINE, EVE, 3, 0, closed_to_arrival=True)]
    assert outcomes == [NightsSet(1)]


def test_what_is_not_named_keeps_its_value() -> None:
    before = a_night(closed=True, min_stay=3, closed_to_arrival=True, closed_to_departure=True)

    nights, _ = changed([before], Change(ALPINE, (EVE,), closed=False))

    assert nights == [replace(before, closed=False)]


def test_a_new_night_without_a_capacity_refuses_the_whole_change() -> None:
    before = a_week()[:5]

    nights, outcomes = changed(before, Change(ALPINE, WEEK, min_stay=2))

    assert nights == before
    assert outcomes == [WithoutCapacity(WEEK[5:])]


def test_a_capacity_below_what_is_taken_is_refused_with_the_nights() -> None:
    before = a_week(day2={"taken": 2}, day5={"taken": 2})

    nights, outcomes = changed(before, Change(ALPINE, WEEK, capacity=1, closed=True))

    assert nights == before
    assert outcomes == [BelowTaken((before[2], before[5]))]


def test_what_is_held_keeps_nobody_from_closing() -> None:
    nights, outcomes = changed(a_week(), Change(ALPINE, WEEK, closed=True, min_stay=9))

    assert outcomes == [NightsSet(7)]
    assert [night.taken for night in nights] == [1] * 7


def test_a_later_change_sees_the_ones_before_it() -> None:
    """The last of two changes of one night wins; a night may be opened and then ruled."""
    nights, outcomes = changed(
        [],
        Change(ALPINE, WEEK, capacity=3),
        Change(ALPINE, WEEK[1:2], capacity=5),
        Change(SEASIDE, WEEK, closed=True),
        Change(ALPINE, WEEK[:1], min_stay=2),
    )

    assert [night.capacity for night in nights] == [3, 5, 3, 3, 3, 3, 3]
    assert nights[0].min_stay == 2
    assert [type(outcome) for outcome in outcomes] == [
        NightsSet,
        NightsSet,
        WithoutCapacity,
        NightsSet,
    ]


@pytest.mark.parametrize(
    ("weekdays", "days"),
    [
        (None, [24, 25, 26, 27, 28, 29, 30, 31]),
        ([Weekday.FRI, Weekday.SAT], [25, 26]),
        ([Weekday.SUN, Weekday.THU, Weekday.THU], [24, 27, 31]),
    ],
)
def test_a_range_may_be_of_some_weekdays(weekdays: list[Weekday] | None, days: list[int]) -> None:
    assert [night.day for night in nights_of(EVE, NEW_YEAR, weekdays)] == days


@pytest.mark.parametrize(
    ("from_on", "until_on", "weekdays", "reason"),
    [
        (EVE, EVE, None, "covers no night"),
        (NEW_YEAR, EVE, None, "covers no night"),
        (EVE, EVE + timedelta(days=1_101), None, "covers more than 1100 nights"),
        (date(1999, 12, 31), date(2000, 1, 2), None, "leaves the calendar"),
        (date(2199, 12, 31), date(2200, 1, 2), None, "leaves the calendar"),
        (EVE, EVE + timedelta(days=3), [Weekday.MON], "has none of these weekdays"),
        (EVE, NEW_YEAR, [], "has none of these weekdays"),
    ],
)
def test_a_range_without_a_night_or_beyond_all_bounds_is_refused(
    from_on: date, until_on: date, weekdays: list[Weekday] | None, reason: str
) -> None:
    with pytest.raises(InvalidRange, match=reason):
        nights_of(from_on, until_on, weekdays)


some_nights = st.lists(st.sampled_from(WEEK), min_size=1, max_size=4, unique=True).map(tuple)
maybe = st.none() | st.booleans()
changes = st.lists(
    st.builds(
        Change,
        st.sampled_from([ALPINE, SEASIDE]),
        some_nights,
        st.none() | st.integers(0, 3),
        maybe,
        st.none() | st.integers(1, 3),
        maybe,
        maybe,
    ),
    max_size=8,
)


def as_map(nights: Sequence[RoomNight]) -> dict[NightKey, RoomNight]:
    return {night.key: night for night in nights}


@given(calendars, changes)
def test_changes_at_once_do_what_they_do_one_by_one(
    nights: list[RoomNight], asked: list[Change]
) -> None:
    at_once = changed(nights, *asked)

    one_by_one: list[Changed] = []
    now: Sequence[RoomNight] = nights
    for one in asked:
        now, outcomes = changed(now, one)
        one_by_one += outcomes

    assert at_once == (sorted(now, key=lambda night: night.key), one_by_one)


@given(calendars, changes)
def test_changes_take_and_give_back_nothing_and_leave_capacity_for_all_that_is_held(
    nights: list[RoomNight], asked: list[Change]
) -> None:
    after, _ = changed(nights, *asked)
    before = as_map(nights)

    assert {night.key for night in nights} <= {night.key for night in after}
    for night in after:
        assert night.taken == (before[night.key].taken if night.key in before else 0)
        assert night.taken <= night.capacity


@given(calendars, changes)
def test_repeating_what_was_made_changes_nothing(
    nights: list[RoomNight], asked: list[Change]
) -> None:
    """Values are absolute, and the last one of each night is what stays."""
    _, outcomes = changed(nights, *asked)
    pairs = zip(asked, outcomes, strict=True)
    made = [one for one, outcome in pairs if isinstance(outcome, NightsSet)]
    once, _ = changed(nights, *made)

    assert changed(once, *made) == (once, [NightsSet(len(one.nights)) for one in made])
