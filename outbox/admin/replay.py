"""A replay, as its row says; what is done with it is in `outbox.admin.replays`."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Row

from outbox.admin.selection import Extent, Selection


class ReplayState(StrEnum):
    """Where a replay stands; `outbox.admin.replays` draws the ways between them."""

    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    REFUSED = "REFUSED"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay as it was last read or written.

    `expected` were there at the start; at the end those that are neither sent nor refused are gone with
    the retention.
    """

    id: int
    state: ReplayState
    reason: str | None
    extent: Extent
    to_topic: str | None
    per_second: int
    position: int
    expected: int
    left_out: int
    sent: int
    refused: int
    gone: tuple[UUID, ...]
    started_by: str
    started_at: datetime
    updated_at: datetime

    @property
    def is_mend(self) -> bool:
        return bool(self.extent.selection.positions)

    @property
    def done(self) -> int:
        return self.sent + self.refused


def replay_of(row: Row[tuple[object, ...]]) -> Replay:
    """Return the replay that a row of all its columns is."""
    selection = Selection(
        tuple(row.topics),
        tuple(row.keys),
        tuple(row.message_ids),
        tuple(row.positions),
        row.since,
        row.until,
    )
    extent = Extent(
        selection, row.first_position, row.last_position, row.first_at, row.last_at, row.cursors
    )
    return Replay(
        id=row.id,
        state=ReplayState(row.state),
        reason=row.reason,
        extent=extent,
        to_topic=row.to_topic,
        per_second=row.per_second,
        position=row.position,
        expected=row.expected,
        left_out=row.left_out,
        sent=row.sent,
        refused=row.refused,
        gone=tuple(row.gone),
        started_by=row.started_by,
        started_at=row.started_at,
        updated_at=row.updated_at,
    )
