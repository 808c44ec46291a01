"""The order of each key: which messages were first delivered before one that was to come first.

Positions are not commit order, and two writers of a key that share no lock have no order at all. What is
promised: if A was committed before B was appended (B waited for A's lock, say), A is published first, as
are messages of one transaction in the order of their appends. So a message that overtook one of a lower
position, by the offsets of their first deliveries, is

    out of order   if both are of one transaction, or the other's commit was over before its append
    undecided      if nobody knows the commit's time, or it came too close to the append to tell
    overlapping    else: the other was not committed yet, and nothing was promised

The neighbour alone does not tell: it may overlap where one further away does not. Messages that take
part in no inversion are put aside in one pass with running extremes. Of the others, position by position,
the earliest commit among those that were overtaken is found by bisection (`_Earliest`).
"""

import math
from bisect import bisect, bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

from relay.audit.snapshot import SnapshotDatabase

# From its timestamp until others see it a commit is written to disk, and to synchronous standbys. Writers
# without a common lock overtake each other within that time, rightly: 12 of them on one key and 2 cores
# did so with one message in 27.
COMMIT_S_MAX = 1.0
# Judged together at most, which bounds the memory. Beyond it is disorder that no reader needs proof of.
STRETCH_MAX = 500_000
_OFFSET, _COMMITTED_AT = attrgetter("offset"), attrgetter("committed_at")

# Where a first delivery may have been trimmed, what is left of a message may be a repetition: left out.
# So is what an operator skipped, whose delivery, if it was replayed, came when it came. What a mend or a
# replay delivered first was behind the others from the start: it is compared within its run.
_COMPARED = """
    SELECT home, judged.topic, key, judged.partition, position, offset, message_id, xid, created_at,
           appended_at, committed_at, run
    FROM judged LEFT JOIN trimmed
        ON trimmed.topic = judged.topic AND trimmed.partition = judged.partition
    WHERE status = 'published' AND judged.partition IS NOT NULL AND NOT skipped
      AND created_at >= coalesce(until, 0)
"""
ENTANGLED = f"""
    WITH compared AS ({_COMPARED}), placed AS (
        SELECT *, max(offset) OVER before AS highest_before, min(offset) OVER behind AS lowest_behind
        FROM compared
        WINDOW
            before AS (PARTITION BY home, topic, key, partition, run ORDER BY position
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
            behind AS (PARTITION BY home, topic, key, partition, run ORDER BY position DESC
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    )
    SELECT home, topic, key, partition, position, offset, message_id, xid, created_at, appended_at,
           committed_at, highest_before, lowest_behind
    FROM placed WHERE offset < highest_before OR offset > lowest_behind
    ORDER BY home, topic, key, partition, run, position
"""


class Delivered(NamedTuple):
    """A message's first delivery, and the extremes of its key's other offsets around its position."""

    home: int
    topic: str
    key: str
    partition: int
    position: int
    offset: int
    message_id: str
    xid: int
    created_at: float
    appended_at: float
    committed_at: float | None
    highest_before: int | None
    lowest_behind: int | None

    @property
    def transaction(self) -> tuple[int, float]:
        """Its id and its beginning: ids begin anew when an outbox is restored elsewhere."""
        return self.xid, self.created_at

    @property
    def has_overtaken(self) -> bool:
        return self.highest_before is not None and self.offset < self.highest_before

    @property
    def begins_a_stretch(self) -> bool:
        """Whether all before it were also delivered before it and all that are behind it."""
        if self.highest_before is None:
            return True
        behind = self.offset if self.lowest_behind is None else self.lowest_behind
        return self.highest_before < min(self.offset, behind)


def find_inversions(db: SnapshotDatabase) -> None:
    """Enter a row for each message that has overtaken another one."""
    delivered = (Delivered(*row) for row in db.rows(ENTANGLED))
    stretches = (stretch for _, stretch in groupby(delivered, _Stretches()))
    db.insert("inversion", chain.from_iterable(map(judge, stretches)))


class _Stretches:
    """Numbers the stretches: within a key, what overtakes and what is overtaken lie in one."""

    def __init__(self) -> None:
        self._number = self._length = 0

    def __call__(self, delivered: Delivered) -> int:
        if delivered.begins_a_stretch or self._length == STRETCH_MAX:
            self._number, self._length = self._number + 1, 0
        self._length += 1
        return self._number


def judge(stretch: Iterable[Delivered]) -> Iterator[tuple[object, ...]]:
    """Judge the messages of one stretch, which are in the order of their positions."""
    committed = _Earliest()
    last_of_transaction: dict[tuple[int, float], Delivered] = {}
    last_unknown: Delivered | None = None

    for one in stretch:
        sibling = last_of_transaction.get(one.transaction)
        if one.has_overtaken:
            outcome, reason, other = _judged(
                one, sibling, committed.behind(one.offset), last_unknown
            )
            identity = (one.home, one.topic, one.key, one.message_id, one.position)
            overtaken = (other.message_id, other.position, other.offset) if other else (None,) * 3
            yield (outcome, reason, *identity, one.partition, one.offset, *overtaken)
        last_of_transaction[one.transaction] = _later(sibling, one)
        if one.committed_at is None:
            last_unknown = _later(last_unknown, one)
        else:
            committed.add(one)


def _judged(
    one: Delivered, sibling: Delivered | None, earliest: Delivered | None, unknown: Delivered | None
) -> tuple[str, str, Delivered | None]:
    """Say what it means, and why; `sibling` and `unknown` have the last delivery of their kind."""
    if sibling and sibling.offset > one.offset:
        return "out_of_order", "of one transaction", sibling

    # How long after the other's commit it was appended; below zero if before.
    committed_at = earliest and earliest.committed_at
    gap_s = -math.inf if committed_at is None else one.appended_at - committed_at
    if gap_s >= COMMIT_S_MAX:
        return "out_of_order", "committed before the append", earliest
    if unknown and unknown.offset > one.offset:
        return "undecided", "no commit timestamp", unknown
    if gap_s > 0:
        return "undecided", "committed too shortly before the append", earliest
    if earliest is None:
        return "undecided", "what it overtook is too far away", None
    return "overlapping", "not committed before the append", earliest


def _later(one: Delivered | None, other: Delivered) -> Delivered:
    return one if one and one.offset > other.offset else other


class _Earliest:
    """The earliest commit behind any offset, among the messages so far.

    One that another follows in its partition and precedes in its commit is asked for no more, and left
    out. So the commits that are kept ascend with the offsets.
    """

    def __init__(self) -> None:
        self._kept: list[Delivered] = []

    def behind(self, offset: int) -> Delivered | None:
        at = bisect(self._kept, offset, key=_OFFSET)
        return self._kept[at] if at < len(self._kept) else None

    def add(self, one: Delivered) -> None:
        later = self.behind(one.offset)
        if later is None or _COMMITTED_AT(later) > _COMMITTED_AT(one):
            end = bisect(self._kept, one.offset, key=_OFFSET)
            first = bisect_left(self._kept, _COMMITTED_AT(one), hi=end, key=_COMMITTED_AT)
            self._kept[first:end] = [one]
