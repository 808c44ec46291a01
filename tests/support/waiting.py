"""Waiting for what must come true, with a deadline in place of a sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 30.0

Found = TypeVar("Found")


def eventually(condition: Callable[[], Found], *, deadline_s: float = DEADLINE_S) -> Found:
    """Ask again until the answer is true, and return it; fails at the deadline."""
    ends_at = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < ends_at, f"not within {deadline_s} s: {condition}"
        time.sleep(0.02)  # between two looks at the world, not for anything to happen
    return found
