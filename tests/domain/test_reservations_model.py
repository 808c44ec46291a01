"""What a reservation is allowed to become."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.answers import Answer, RoomResult
from domain.reservations.model import (
    REDRIVEN,
    Contradiction,
    NewReservation,
    NotCancellable,
    NotReservable,
    NotReservableCode,
    Reservation,
    Status,
    Unchanged,
    cancel,
    new,
    redrive,
    settle,
)
from domain.stay import Stay

pytestmark = pytest.mark.unit

CHRISTMAS = Stay(date(2026, 12, 24), date(2026, 12, 27))
NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)
TERMINAL = {Status.REJECTED, Status.CANCELLED}


def a_reservation(
    *, status: Status = Status.PENDING, reason: str | None = None, version: int = 1
) -> Reservation:
    return Reservation(1, 42, 7, CHRISTMAS, status, reason, version, NOON, NOON)


def an_answer(status: Answer, message: str = "") -> RoomResult:
    return RoomResult(1, status, message, UUID(int=1))


SETTLED = [
    (Status.PENDING, Answer.SUCCESS, Status.CONFIRMED),
    (Status.PENDING, Answer.FAILURE, Status.REJECTED),
    (Status.PENDING, Answer.CANCEL, Contradiction),
    (Status.CANCELLING, Answer.SUCCESS, Unchanged),
    (Status.CANCELLING, Answer.FAILURE, Unchanged),
    (Status.CANCELLING, Answer.CANCEL, Status.CANCELLED),
    (Status.CONFIRMED, Answer.SUCCESS, Unchanged),
    (Status.CONFIRMED, Answer.FAILURE, Contradiction),
    (Status.CONFIRMED, Answer.CANCEL, Contradiction),
    (Status.REJECTED, Answer.SUCCESS, Unchanged),
    (Status.REJECTED, Answer.FAILURE, Unchanged),
    (Status.REJECTED, Answer.CANCEL, Unchanged),
    (Status.CANCELLED, Answer.SUCCESS, Unchanged),
    (Status.CANCELLED, Answer.FAILURE, Unchanged),
    (Status.CANCELLED, Answer.CANCEL, Unchanged),
]


@pytest.mark.parametrize(("status", "answer", "expected"), SETTLED)
def test_an_answer_settles_a_reservation_as_the_table_says(
    status: Status, answer: Answer, expected: Status | type[Contradiction | Unchanged]
) -> None:
    before = a_reservation(status=status)

    after = settle(before, an_answer(answer, "SOLD_OUT: no room left on 2026-12-24"))

    if isinstance(expected, Status):
        assert isinstance(after, Reservation)
        assert (after.status, after.version) == (expected, 2)
    else:
        assert isinstance(after, expected)
        assert after.reservation is before


def test_the_table_names_every_pair() -> None:
    pairs = {(status, answer) for status, answer, _ in SETTLED}

    assert len(pairs) == len(SETTLED) == len(Status) * len(Answer)


def test_a_rejected_reservation_says_why() -> None:
    after = settle(a_reservation(), an_answer(Answer.FAILURE, "SOLD_OUT: no room left"))

    assert isinstance(after, Reservation)
    assert after.reason == "SOLD_OUT: no room left"


def test_a_rejection_without_a_reason_gets_one() -> None:
    """Other services may send an empty message; the column must not be empty."""
    after = settle(a_reservation(), an_answer(Answer.FAILURE))

    assert isinstance(after, Reservation)
    assert after.reason == "NO_REASON_GIVEN"


def test_a_contradiction_is_handed_over_whole() -> None:
    confirmed, contradiction = a_reservation(status=Status.CONFIRMED), an_answer(Answer.FAILURE)

    assert settle(confirmed, contradiction) == Contradiction(confirmed, contradiction)


@pytest.mark.parametrize("status", [Status.PENDING, Status.CONFIRMED])
def test_what_may_still_be_had_can_be_cancelled(status: Status) -> None:
    before = a_reservation(status=status, version=2)

    assert cancel(before) == replace(before, status=Status.CANCELLING, version=3)


@pytest.mark.parametrize("status", [Status.CANCELLING, Status.CANCELLED])
def test_cancelling_again_changes_nothing(status: Status) -> None:
    before = a_reservation(status=status)

    assert cancel(before) == Unchanged(before)


def test_a_rejected_reservation_cannot_be_cancelled() -> None:
    before = a_reservation(status=Status.REJECTED)

    assert cancel(before) == NotCancellable(before)


@pytest.mark.parametrize("status", [Status.PENDING, Status.CANCELLING])
def test_asking_again_decides_nothing(status: Status) -> None:
    before = a_reservation(status=status)

    assert redrive(before) == replace(before, reason=REDRIVEN, version=2)


@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.REJECTED, Status.CANCELLED])
def test_a_settled_reservation_is_not_asked_about_again(status: Status) -> None:
    with pytest.raises(AssertionError):
        redrive(a_reservation(status=status))


def test_an_answer_clears_the_mark_of_having_asked_again() -> None:
    after = settle(redrive(a_reservation()), an_answer(Answer.SUCCESS))

    assert isinstance(after, Reservation)
    assert after.reason is None


@given(st.lists(st.sampled_from([*Answer, "cancel"]), max_size=30))
def test_a_terminal_status_never_changes_back(events: list[Answer | str]) -> None:
    """Whatever arrives, and whatever the member asks for, in any order."""
    seen = [a_reservation()]
    for event in events:
        after = (
            settle(seen[-1], an_answer(event)) if isinstance(event, Answer) else cancel(seen[-1])
        )
        if isinstance(after, Reservation):
            seen.append(after)

    assert [one.version for one in seen] == list(range(1, len(seen) + 1))
    assert not any(one.status in TERMINAL for one in seen[:-1])


TODAY = date(2026, 12, 1)


def wish(stay: Stay) -> NewReservation | NotReservable:
    return new(42, 7, stay, today=TODAY, nights_max=30, days_max=365)


def a_stay(*, in_days: int, nights: int) -> Stay:
    check_in = TODAY + timedelta(days=in_days)
    return Stay(check_in, check_in + timedelta(days=nights))


@pytest.mark.parametrize(
    "stay",
    [a_stay(in_days=0, nights=1), a_stay(in_days=0, nights=30), a_stay(in_days=365, nights=30)],
)
def test_a_wish_up_to_the_limits_is_fine(stay: Stay) -> None:
    assert wish(stay) == NewReservation(42, 7, stay)


@pytest.mark.parametrize(
    ("stay", "refusal"),
    [
        (a_stay(in_days=-1, nights=3), NotReservableCode.CHECK_IN_PAST),
        (a_stay(in_days=0, nights=31), NotReservableCode.STAY_TOO_LONG),
        (a_stay(in_days=366, nights=1), NotReservableCode.TOO_FAR_AHEAD),
    ],
)
def test_a_wish_beyond_a_limit_is_refused(stay: Stay, refusal: NotReservableCode) -> None:
    refused = wish(stay)

    assert isinstance(refused, NotReservable)
    assert refused.code is refusal
