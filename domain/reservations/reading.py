"""Looking at many reservations, and at how one came about. Nothing here locks or writes."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Final

from sqlalchemy import Connection, RowMapping, select, text

from domain.reservations.model import Cause, Reservation, Status, Transition
from domain.reservations.store import of_row
from domain.reservations.tables import reservation, transition

# So many transitions at once: a saga that is asked again each hour needs six weeks for them.
HISTORY_MAX: Final = 1_000

VERSIONS = text("""
    SELECT id, version FROM reservations.reservation WHERE id = ANY (CAST(:ids AS bigint[]))
""")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which reservations are asked for; check-ins of the half-open range [from, to)."""

    member_id: int | None = None
    statuses: tuple[Status, ...] = ()
    room_id: int | None = None
    check_in_from: date | None = None
    check_in_to: date | None = None


def page(
    connection: Connection, asked: Filter, after_id: int | None, limit: int
) -> list[Reservation]:
    """Read a page, newest first; `after_id` ended the last page."""
    column = reservation.c
    chosen = select(reservation)
    if asked.member_id is not None:
        chosen = chosen.where(column.member_id == asked.member_id)
    if asked.statuses:
        chosen = chosen.where(column.status.in_(asked.statuses))
    if asked.room_id is not None:
        chosen = chosen.where(column.room_id == asked.room_id)
    if asked.check_in_from is not None:
        chosen = chosen.where(column.check_in >= asked.check_in_from)
    if asked.check_in_to is not None:
        chosen = chosen.where(column.check_in < asked.check_in_to)
    if after_id is not None:
        chosen = chosen.where(column.id < after_id)
    rows = connection.execute(chosen.order_by(column.id.desc()).limit(limit)).mappings()
    return [of_row(row) for row in rows]


def history(
    connection: Connection, reservation_id: int, after_version: int = 0
) -> list[Transition]:
    """Read how it came about since a version, oldest first, HISTORY_MAX at most."""
    chosen = (
        select(transition)
        .where(transition.c.reservation_id == reservation_id, transition.c.version > after_version)
        .order_by(transition.c.version)
        .limit(HISTORY_MAX)
    )
    return [_transition(row) for row in connection.execute(chosen).mappings()]


def versions(connection: Connection, ids: Collection[int]) -> dict[int, int]:
    """Read how far many reservations are, for the requests that wait for them."""
    rows = connection.execute(VERSIONS, {"ids": list(ids)})
    return {row.id: row.version for row in rows}


def _transition(row: RowMapping) -> Transition:
    return Transition(
        row["reservation_id"],
        row["version"],
        Status(row["status"]),
        row["reason"],
        row["created_at"],
        Cause(row["message_id"], row["actor"], row["trace_id"]),
    )
