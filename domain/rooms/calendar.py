"""The calendar of a room in Postgres: which nights are open, how many rooms, what is left.

A night may be set to no capacity, but is never deleted, and its capacity never falls below what is
taken. Nothing here begins, commits or rolls back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, select, text

from domain.rooms import nights
from domain.rooms.nights import Availability, RoomNight
from domain.rooms.tables import room, room_night
from domain.stay import Stay

NIGHTS_SET_MAX = 1_100
CAPACITY_MAX = 100_000


class InvalidCapacity(ValueError):
    """No night could be set so: a range that is empty or too long, or an absurd capacity."""

    code = "INVALID_CAPACITY"

    def __init__(self, from_on: date, until_on: date, capacity: int) -> None:
        super().__init__(
            f"cannot set {capacity} rooms on [{from_on}, {until_on}): 1 to {NIGHTS_SET_MAX} nights "
            f"and 0 to {CAPACITY_MAX} rooms are possible"
        )
        self.from_on = from_on
        self.until_on = until_on
        self.capacity = capacity


@dataclass(frozen=True, slots=True)
class NightsSet:
    count: int


@dataclass(frozen=True, slots=True)
class BelowTaken:
    """More rooms are held on these nights than the capacity asked for; nothing was changed."""

    nights: tuple[RoomNight, ...]
    code: str = "CAPACITY_BELOW_TAKEN"


# One writer of a room's calendar at a time: nights that do not exist yet cannot be locked.
# The update matters even when the name stays: DO NOTHING would lock no row.
LOCK_ROOM = text("""
    INSERT INTO rooms.room AS room (id, name)
    VALUES (:room_id, :name)
    ON CONFLICT (id) DO UPDATE SET name = coalesce(excluded.name, room.name)
""")

# In the order in which batches of reservations lock them.
LOCK_RANGE = text("""
    SELECT room_id, night, capacity, taken
    FROM rooms.room_night
    WHERE room_id = :room_id AND night >= :from_on AND night < :until_on
    ORDER BY night
    FOR UPDATE
""")

SET_NIGHTS = text("""
    INSERT INTO rooms.room_night AS old (room_id, night, capacity, capacity_peak)
    SELECT :room_id, CAST(day AS date), :capacity, :capacity
    FROM generate_series(
        CAST(:from_on AS timestamp), CAST(:until_on AS timestamp) - interval '1 day',
        interval '1 day'
    ) AS day
    ON CONFLICT (room_id, night) DO UPDATE SET
        capacity = excluded.capacity,
        capacity_peak = greatest(old.capacity_peak, excluded.capacity)
""")


def set_nights(
    connection: Connection,
    room_id: int,
    from_on: date,
    until_on: date,
    capacity: int,
    *,
    name: str | None = None,
) -> NightsSet | BelowTaken:
    """Open the nights of [from_on, until_on), or change how many rooms they have.

    All or none. Makes the room if it is new; a name of None keeps the one it has. Locks the room,
    then its nights in order. Raises InvalidCapacity.
    """
    count = (until_on - from_on).days
    if not (0 < count <= NIGHTS_SET_MAX and 0 <= capacity <= CAPACITY_MAX):
        raise InvalidCapacity(from_on, until_on, capacity)

    asked = {"room_id": room_id, "from_on": from_on, "until_on": until_on}
    connection.execute(LOCK_ROOM, {"room_id": room_id, "name": name})
    opened = [RoomNight(*row) for row in connection.execute(LOCK_RANGE, asked)]
    if below := tuple(night for night in opened if night.taken > capacity):
        return BelowTaken(below)

    connection.execute(SET_NIGHTS, {**asked, "capacity": capacity})
    return NightsSet(count)


def opened_nights(
    connection: Connection, room_id: int, from_on: date, until_on: date
) -> Sequence[RoomNight]:
    """Read the open nights of [from_on, until_on) in order, without locking."""
    night = room_night.c
    chosen = (
        select(night.room_id, night.night, night.capacity, night.taken)
        .where(night.room_id == room_id, night.night >= from_on, night.night < until_on)
        .order_by(night.night)
    )
    return [RoomNight(*row) for row in connection.execute(chosen)]


def availability(connection: Connection, room_id: int, stay: Stay) -> Availability:
    """Look at a stay without locking it: by the time it is asked for, it may be gone."""
    opened = opened_nights(connection, room_id, stay.check_in, stay.check_out)
    known = bool(opened) or bool(connection.scalar(select(room.c.id).where(room.c.id == room_id)))
    return nights.availability(opened, stay, known_room=known)
