"""Searching all rooms for a stay, by one statement.

The reasons are those of `nights.availability`, in SQL, so that the database can filter and limit a page;
a property test compares the two. Each room costs one range of the index (room_id, night), and the
statement reads no more rooms than it needs to fill the page. Nothing is locked.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from domain.answers import ReasonCode
from domain.rooms.nights import Availability
from domain.stay import Stay


@dataclass(frozen=True, slots=True)
class Found:
    """A room, and whether the stay could be held in it now."""

    room_id: int
    name: str | None
    seen: Availability


# LATERAL, not one GROUP BY over all rooms: rooms are judged one after the other until LIMIT.
# BETWEEN repeats the join condition, so that a room's nights are one index range, not one lookup each.
SEARCH = text("""
    SELECT room.id, room.name, seen.minimum_free, seen.nights, seen.reasons
    FROM rooms.room
    CROSS JOIN LATERAL (
        SELECT min(free) FILTER (WHERE on_ < :check_out) AS minimum_free,
               array_agg(on_ ORDER BY on_) FILTER (WHERE reason IS NOT NULL) AS nights,
               array_agg(reason ORDER BY on_) FILTER (WHERE reason IS NOT NULL) AS reasons
        FROM (
            SELECT asked.on_, coalesce(night.capacity - night.taken, 0) AS free, CASE
                WHEN asked.on_ = :check_out
                    THEN CASE WHEN night.closed_to_departure THEN 'CLOSED_TO_DEPARTURE' END
                WHEN night.room_id IS NULL THEN 'NIGHT_NOT_OPEN'
                WHEN night.closed THEN 'CLOSED'
                WHEN asked.on_ = :check_in AND night.closed_to_arrival THEN 'CLOSED_TO_ARRIVAL'
                WHEN asked.on_ = :check_in AND night.min_stay > :length THEN 'MIN_STAY'
                WHEN night.taken = night.capacity THEN 'SOLD_OUT'
            END AS reason
            FROM (
                SELECT CAST(:check_in AS date) + day AS on_ FROM generate_series(0, :length) AS day
            ) AS asked
            LEFT JOIN rooms.room_night AS night
              ON night.room_id = room.id AND night.night = asked.on_
             AND night.night BETWEEN :check_in AND :check_out
        ) AS judged
    ) AS seen
    WHERE room.id > :after
      AND (CAST(:bookable AS boolean) IS NULL OR (seen.nights IS NULL) = :bookable)
    ORDER BY room.id
    LIMIT :limit
""")


def search(
    connection: Connection, stay: Stay, *, after: int, limit: int, bookable: bool | None = None
) -> list[Found]:
    """Return `limit` rooms after this id; with `bookable`, only rooms that are, or are not, bookable."""
    values = {
        "check_in": stay.check_in,
        "check_out": stay.check_out,
        "length": stay.length,
        "after": after,
        "bookable": bookable,
        "limit": limit,
    }
    found = []
    for row in connection.execute(SEARCH, values):
        failing = zip(row.nights or (), map(ReasonCode, row.reasons or ()), strict=True)
        seen = Availability(row.nights is None, row.minimum_free, tuple(failing))
        found.append(Found(row.id, row.name, seen))
    return found
