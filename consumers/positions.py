"""How far a consumer has read its partitions, and two faults that must not go unnoticed.

*A truncated log.* The brokers lost the end of a log after it was read, and publish over it. The next
record then has an offset before the last one; that is logged and counted, and every record is read.

*A stalled partition.* It is assigned, records wait in it, and none is fetched. That is logged and
measured, and the consumer is not ready.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from consumers.metrics import STALLED, TRUNCATIONS
from innbox_process.health import Health

_log = structlog.get_logger(__name__)

# Far longer than a fetch from a slow broker takes, or the move of a leader.
STALLED_AFTER_S = 20.0
# A turn counts for this at most: nothing is read while a batch is handled or the process is paused.
_TURN_S_MAX = 1.0

# A topic with its prefix, and the number of a partition.
Partition = tuple[str, int]


@dataclass(slots=True)
class Position:
    """The next offset of one partition, if it is known, and for how long it delivered nothing."""

    next_offset: int | None = None
    still_s: float = 0.0
    is_stalled: bool = False


class Positions:
    """The positions of the partitions that one consumer is assigned."""

    def __init__(self, group: str, health: Health) -> None:
        self._group = group
        self._health = health
        self.known: dict[Partition, Position] = {}
        self._looked_at = time.monotonic()

    def assigned(self, partitions: Iterable[Partition]) -> None:
        self.known |= {partition: Position() for partition in partitions}

    def revoked(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self.known.pop(partition, None)
        self._say_stalled()

    def starts(self, partition: Partition, offset: int | None) -> None:
        """Start from the group's offset in a partition; None if the group has none."""
        self.known[partition].next_offset = offset

    def read(self, partition: Partition, offset: int, next_offset: int) -> None:
        """Record that a record, or the end of the partition, was read at an offset."""
        position = self.known[partition]
        expected = position.next_offset
        position.next_offset, position.still_s = next_offset, 0.0
        if expected is not None and offset < expected:
            self._report_truncation(partition, offset, expected)
        if position.is_stalled:
            position.is_stalled = False
            self._say_stalled()

    def still(self) -> list[Partition]:
        """Return the partitions that delivered nothing for too long, each once in that time.

        Call this after each turn that has emptied the client's queue: in a full queue they may be next.
        """
        now = time.monotonic()
        passed_s, self._looked_at = min(now - self._looked_at, _TURN_S_MAX), now
        still = []
        for partition, position in self.known.items():
            position.still_s += passed_s
            if position.still_s >= STALLED_AFTER_S:
                position.still_s = 0.0
                still.append(partition)
        return still

    def compare(self, ends: Mapping[Partition, int]) -> list[Partition]:
        """Report the partitions that are stalled: that delivered nothing although they are behind.

        Returns those that had been reported before: long enough for a monitor to have seen it.
        """
        before = []
        for partition, end in ends.items():
            position = self.known[partition]
            if position.next_offset is not None and position.next_offset >= end:
                continue
            if position.is_stalled:
                before.append(partition)
            position.is_stalled = True
            _log.error(
                "partition stalled", **_fields(partition), position=position.next_offset, end=end
            )
        self._say_stalled()
        return before

    def _say_stalled(self) -> None:
        stalled = [partition for partition, position in self.known.items() if position.is_stalled]
        STALLED.labels(self._group).set(len(stalled))
        if stalled:
            names = ", ".join(f"{topic}/{partition}" for topic, partition in stalled)
            self._health.unwell("partitions", f"assigned and behind, but not fetched: {names}")
        else:
            self._health.well("partitions")

    def _report_truncation(self, partition: Partition, offset: int, expected: int) -> None:
        TRUNCATIONS.labels(self._group).inc()
        _log.error(
            "log truncated",
            **_fields(partition),
            first_lost_offset=offset,
            last_lost_offset=expected - 1,
            reason="the brokers lost records after they were read; their successors are read",
        )


def _fields(partition: Partition) -> dict[str, str | int]:
    return {"topic": partition[0], "partition": partition[1]}
