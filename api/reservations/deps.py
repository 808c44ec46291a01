"""What the routes of reservations work with."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

from prometheus_client import Gauge
from sqlalchemy import Engine, TextClause

from api.problems import ProblemError
from api.reservations.appending import AsyncDoorbell, TopicLimits
from api.reservations.watchers import ReservationWatchers
from outbox import Doorbell
from runtime.pipeline import PipelinePool
from runtime.settings import Settings

STREAMS = Gauge("innbox_event_streams", "Event streams that are open.")


class Streams:
    """The event streams that are open, and how many may be. Belongs to the event loop."""

    def __init__(self, most: int, most_of_a_member: int) -> None:
        self._most = most
        self._most_of_a_member = most_of_a_member
        self._of: Counter[int] = Counter()

    def take(self, member_id: int) -> ExitStack:
        """Count one more until the result is closed; raises `ProblemError` if there are too many."""
        if self._of.total() >= self._most:
            reason = f"{self._most} event streams are open"
            raise ProblemError("TOO_MANY_STREAMS", f"{reason}; close one and try again")
        if self._of[member_id] >= self._most_of_a_member:
            reason = f"you have {self._most_of_a_member} event streams open"
            raise ProblemError("TOO_MANY_STREAMS", f"{reason}; close one and try again")
        self._of[member_id] += 1
        STREAMS.inc()
        slot = ExitStack()  # closed a second time, it does nothing
        slot.callback(self._give_back, member_id)
        return slot

    def _give_back(self, member_id: int) -> None:
        self._of[member_id] -= 1
        if not self._of[member_id]:
            del self._of[member_id]
        STREAMS.dec()


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The reservations' database in its four ways, what wakes others, and the bounds of the settings.

    `engine` and `reading` are for threads; `pool`, `reads`, `doorbell` and `topics` for the event loop.
    """

    engine: Engine
    reading: Engine
    pool: PipelinePool
    reads: PipelinePool
    reserve_sql: TextClause
    topics: TopicLimits
    doorbell: AsyncDoorbell
    watchers: ReservationWatchers
    changes: Doorbell
    streams: Streams
    settings: Settings
