"""How far the partitions of a member are read, and two things that must not happen in silence.

*A truncated log.* The brokers lost the end of a log after it was read, and publish over it. What is read
next then lies before what was read already; that is logged and counted, and everything is read.

*A stalled partition.* It is assigned, records wait in it, and none is read although the member asks for
them. That is logged and measured, and the member is not ready.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from consumers.metrics import STALLED, TRUNCATIONS
from innbox_process.health import Health

_log = structlog.get_logger(__name__)

# Far longer than a fetch takes that meets a slow broker, or a leader that moves.
STALLED_AFTER_S = 20.0
# A turn counts for this at most: while a batch is handled, or the process is stopped, nothing is read.
_TURN_S_MAX = 1.0

# A topic with its prefix, and a partition of it.
Place = tuple[str, int]


@dataclass(slots=True)
class Position:
    """Where one partition is read on, if that is known, and for how long nothing came of it."""

    next_offset: int | None = None
    still_s: float = 0.0
    is_stalled: bool = False


class Positions:
    """The positions of what one member is assigned."""

    def __init__(self, group: str, health: Health) -> None:
        self._group = group
        self._health = health
        self._known: dict[Place, Position] = {}
        self._looked_at = time.monotonic()

    def assigned(self, places: Iterable[Place]) -> None:
        self._known |= {place: Position() for place in places}

    def revoked(self, places: Iterable[Place]) -> None:
        for place in places:
            self._known.pop(place, None)
        self._say_stalled()

    def starts(self, place: Place, offset: int | None) -> None:
        """Take over where the group stands in a partition; None if it has read nothing of it."""
        self._known[place].next_offset = offset

    def read(self, place: Place, offset: int, next_offset: int) -> None:
        """Take note of a record, or of the end of the partition, that was read at an offset."""
        position = self._known[place]
        expected = position.next_offset
        position.next_offset, position.still_s = next_offset, 0.0
        if expected is not None and offset < expected:
            self._report_truncation(place, offset, expected)
        if position.is_stalled:
            position.is_stalled = False
            self._say_stalled()

    def still(self) -> list[Place]:
        """Return the partitions of which nothing came for too long, each once in that time.

        Call this after each turn that has emptied the client's queue: in a full one they may be next.
        """
        now = time.monotonic()
        passed_s, self._looked_at = min(now - self._looked_at, _TURN_S_MAX), now
        still = []
        for place, position in self._known.items():
            position.still_s += passed_s
            if position.still_s >= STALLED_AFTER_S:
                position.still_s = 0.0
                still.append(place)
        return still

    def compare(self, ends: Mapping[Place, int]) -> list[Place]:
        """Tell the partitions that stand still at their ends from those that are stalled.

        Returns those that had been found stalled before: long enough for a monitor to have seen it.
        """
        before = []
        for place, end in ends.items():
            position = self._known[place]
            if position.next_offset is not None and position.next_offset >= end:
                continue
            if position.is_stalled:
                before.append(place)
            position.is_stalled = True
            _log.error(
                "partition stalled", **_fields(place), position=position.next_offset, end=end
            )
        self._say_stalled()
        return before

    def _say_stalled(self) -> None:
        stalled = [place for place, position in self._known.items() if position.is_stalled]
        STALLED.labels(self._group).set(len(stalled))
        if stalled:
            names = ", ".join(f"{topic}/{partition}" for topic, partition in stalled)
            self._health.unwell("partitions", f"assigned and behind, but not read: {names}")
        else:
            self._health.well("partitions")

    def _report_truncation(self, place: Place, offset: int, expected: int) -> None:
        TRUNCATIONS.labels(self._group).inc()
        _log.error(
            "log truncated",
            **_fields(place),
            first_lost_offset=offset,
            last_lost_offset=expected - 1,
            reason="the brokers lost records that had been read; what they hold now is read",
        )


def _fields(place: Place) -> dict[str, str | int]:
    return {"topic": place[0], "partition": place[1]}
