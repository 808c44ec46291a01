"""The rate limit of a member: so many requests a second, and some more at once after a pause.

The generic cell rate algorithm (ITU-T I.371, annex A; the virtual-scheduling form): for each member it
keeps the instant at which the next request would be due if all came evenly. A request is refused that
comes further ahead of it than the burst allows, and a refused one costs nothing.

It counts in this process's memory, so with several API processes the limit is that of each. The least
recently seen member is forgotten first; after a pause there was nothing to remember of them. The
library `limits` takes eight times as long, and keeps a timer's thread and members without bound.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from api.problems import ProblemError

MEMBERS_MAX = 100_000


class TooManyRequests(ProblemError):
    code = "TOO_MANY_REQUESTS"

    def __init__(self, requests_per_s: float, wait_s: float) -> None:
        detail = f"more than {requests_per_s:g} requests a second"
        super().__init__(self.code, detail, retry_after_s=wait_s)
        self.wait_s = wait_s


class RateLimiter:
    """The rate of each member. Belongs to the event loop: call it from nowhere else."""

    def __init__(
        self,
        requests_per_s: float,
        burst: int,
        *,
        members_max: int = MEMBERS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_s = requests_per_s
        self._every_s = 1 / requests_per_s
        self._ahead_s_max = (burst - 1) * self._every_s
        self._members_max = members_max
        self._clock = clock
        self._due_at: OrderedDict[int, float] = OrderedDict()

    def acquire(self, member_id: int) -> None:
        """Count a request; raises `TooManyRequests` if it comes too soon."""
        now = self._clock()
        due_at = max(now, self._due_at.get(member_id, now))
        if (wait_s := due_at - now - self._ahead_s_max) > 0:
            raise TooManyRequests(self._requests_per_s, wait_s)
        self._due_at[member_id] = due_at + self._every_s
        self._due_at.move_to_end(member_id)
        if len(self._due_at) > self._members_max:
            self._due_at.popitem(last=False)
