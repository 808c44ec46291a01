"""What the routes of reservations work with."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from litestar.params import PathParameter
from prometheus_client import Gauge
from sqlalchemy import Engine, TextClause

from api.problems import ProblemError
from api.requests.bodies import ID_MAX
from api.reservations.doorbell import AsyncDoorbell
from api.reservations.topics import TopicLimits
from api.reservations.watchers import ReservationWatchers
from outbox import Doorbell
from runtime.pipeline import PipelinePool
from runtime.settings import Settings

STREAMS = Gauge("innbox_event_streams", "Event streams that are open.")

ReservationId = Annotated[int, PathParameter(ge=1, le=ID_MAX)]


class Streams:
    """The event streams that are open, and how many may be. Belongs to the event loop."""

    def __init__(self, most: int, most_of_a_member: int) -> None:
        self._most = most
        self._most_of_a_member = most_of_a_member
        self._open: set[StreamSlot] = set()
        self._of: Counter[int] = Counter()

    def take(self, member_id: int) -> "StreamSlot":
        """Count one more until it is given back; raises `ProblemError` if there are too many."""
        if len(self._open) >= self._most:
            raise _too_many(f"{self._most} event streams are open")
        if self._of[member_id] >= self._most_of_a_member:
            raise _too_many(f"you have {self._most_of_a_member} event streams open")
        slot = StreamSlot(self, member_id)
        self._open.add(slot)
        self._of[member_id] += 1
        STREAMS.inc()
        return slot

    def give_back(self, slot: "StreamSlot") -> None:
        """Count it no more; a second time changes nothing."""
        if slot not in self._open:
            return
        self._open.remove(slot)
        self._of[slot.member_id] -= 1
        if not self._of[slot.member_id]:
            del self._of[slot.member_id]
        STREAMS.dec()


@dataclass(frozen=True, eq=False, slots=True)
class StreamSlot:
    """The place of one stream; the end of a `with` gives it back."""

    streams: Streams
    member_id: int

    def __enter__(self) -> None:
        """It was taken before."""

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        self.streams.give_back(self)


def _too_many(reason: str) -> ProblemError:
    detail = f"{reason}; close one and try again"
    return ProblemError("TOO_MANY_STREAMS", detail)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The reservations' database in its three ways, what wakes others, and the bounds of the settings.

    `engine` and `reading` are for threads, `pool`, `doorbell` and `topics` for the event loop.
    """

    engine: Engine
    reading: Engine
    pool: PipelinePool
    reserve_sql: TextClause
    topics: TopicLimits
    doorbell: AsyncDoorbell
    watchers: ReservationWatchers
    changes: Doorbell
    streams: Streams
    settings: Settings

    def changed(self, reservation_id: int) -> None:
        """Wake the watchers of this reservation, in each process; call it after the commit."""
        self.changes.ring([reservation_id])
