"""The pace of a busy loop: it rests only where a rest pays, and never for longer than its bound."""

import time
from collections.abc import Callable

import pytest

from outbox import Pace
from outbox.pacing import FAIR_BATCH

pytestmark = pytest.mark.unit

GATHER_MS = 25.0
# Where a fair batch just comes together within the bound.
THRESHOLD_PER_S = FAIR_BATCH / GATHER_MS * 1000

Sleep = Callable[[float], None]


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Sleep:
    """A clock that moves only by sleeping."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def steady(pace: Pace, sleep: Sleep, per_s: float, *, seconds: float = 1.0) -> None:
    """Have messages arrive at a rate, in batches of five milliseconds."""
    for _ in range(int(seconds / 0.005)):
        sleep(0.005)
        pace.count(round(per_s * 0.005))


def test_a_loop_that_has_done_nothing_yet_does_not_rest(sleep: Sleep) -> None:
    sleep(1)
    assert Pace(GATHER_MS).rest_s() == 0


def test_below_the_rate_at_which_it_pays_a_loop_never_rests(sleep: Sleep) -> None:
    pace = Pace(GATHER_MS)
    steady(pace, sleep, THRESHOLD_PER_S * 0.75)
    assert pace.rest_s() == 0


def test_a_single_message_now_and_then_costs_no_rest(sleep: Sleep) -> None:
    pace = Pace(GATHER_MS)
    for _ in range(100):
        sleep(0.01)
        pace.count(1)
        assert pace.rest_s() == 0


def test_a_busy_loop_rests_until_a_large_batch_has_come_or_its_bound_has(sleep: Sleep) -> None:
    pace = Pace(GATHER_MS)
    steady(pace, sleep, 2 * THRESHOLD_PER_S)
    assert pace.rest_s() == GATHER_MS / 1000


@pytest.mark.parametrize("per_s", [10_000, 40_000, 100_000])
def test_the_higher_the_rate_the_shorter_the_rest(sleep: Sleep, per_s: int) -> None:
    pace = Pace(GATHER_MS)
    steady(pace, sleep, per_s)
    assert pace.rest_s() == pytest.approx(4 * FAIR_BATCH / per_s, rel=0.1)


def test_a_rush_is_soon_forgotten(sleep: Sleep) -> None:
    pace = Pace(GATHER_MS)
    steady(pace, sleep, 100_000)
    sleep(1)
    pace.count(1)
    assert pace.rest_s() == 0


def test_without_time_to_gather_no_rate_makes_a_loop_rest(sleep: Sleep) -> None:
    pace = Pace(0)
    steady(pace, sleep, 100_000)
    assert pace.rest_s() == 0
