"""Waiting between attempts: it doubles, it is bounded, and processes do it out of step."""

import pytest

from innbox_process.backoff import backoff_s

pytestmark = pytest.mark.unit


def test_waits_double_up_to_a_bound_and_differ() -> None:
    """However many attempts there were: the bound holds, and two processes do not meet each time."""
    one, another = (
        [backoff_s(attempt, shortest_s=0.2, longest_s=10.0) for attempt in range(2_000)]
        for _ in range(2)
    )
    assert one != another
    doubled = [min(0.2 * 2.0 ** min(attempt, 32), 10.0) for attempt in range(2_000)]
    assert all(full / 2 <= waited <= full for waited, full in zip(one, doubled, strict=True))
