"""Waiting that doubles while an error lasts, and is out of step with that of other processes."""

import random

_DOUBLINGS_MAX = 32


def backoff_s(attempt: int, *, shortest_s: float, longest_s: float) -> float:
    """Return how long to wait after so many failed attempts: between half of the time and all of it.

    The time is `shortest_s` after attempt 0, and doubles with each attempt up to `longest_s`.
    """
    full_s = min(longest_s, shortest_s * 2.0 ** min(attempt, _DOUBLINGS_MAX))
    return full_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
