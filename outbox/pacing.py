"""Batches that grow with the load: when a busy loop rests, so that more gathers for its next batch.

A batch has costs of its own, whatever is in it: statements, a flush, a round trip to the brokers. A loop
that is woken while it is idle works at once. If more has come when a batch is done, the loop is busy, and
a rest may pay: if `FAIR_BATCH` messages or more will come, at the present rate, within the bound. Below
that rate a rest would cost latency and save little, so the loop works as fast as it is woken. Above it
the loop rests until four times as many have come, so the higher the rate, the shorter the rest.

Databases call it group commit, and network cards interrupt moderation.
"""

import math
import time

# The costs of a batch of this size are a small part of the whole.
FAIR_BATCH = 32
# An arrival counts in the rate for about so long: longer than a rest, much shorter than a rush.
_RATE_S = 0.1


class Pace:
    """The pace of one loop, which rests for `gather_ms` at most; with 0 it never rests."""

    def __init__(self, gather_ms: float) -> None:
        self._longest_s = gather_ms / 1000
        self._per_s = 0.0
        self._counted_at = time.monotonic()

    def count(self, arrived: int) -> None:
        """Count what arrived since the last count."""
        now = time.monotonic()
        faded = math.exp((self._counted_at - now) / _RATE_S)
        self._per_s, self._counted_at = self._per_s * faded + arrived / _RATE_S, now

    def rest_s(self) -> float:
        """Return for how long to rest, where more has come already; 0 where no rest would pay."""
        if self._per_s * self._longest_s < FAIR_BATCH:
            return 0.0
        return min(self._longest_s, 4 * FAIR_BATCH / self._per_s)
