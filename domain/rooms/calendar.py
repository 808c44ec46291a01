"""The calendar of the rooms in Postgres: open nights, their capacity, their free rooms and their rules.

A night may be set to no capacity, but is never deleted, and its capacity never falls below what is
taken. Nothing here begins, commits or rolls back.

A change locks the rooms, by id, and then the nights, by room and night: the rooms, because nights that
do not exist yet cannot be locked; the nights in the order in which batches of reservations lock them,
which lock no room. So no deadlock is possible.

Sets of rows are passed as one JSON text: psycopg writes arrays element by element, which would take a
good part of a batch's time.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, timedelta

import msgspec
from sqlalchemy import Connection, select, text

from domain.rooms import change, nights
from domain.rooms.change import Change, Changed, NightsSet
from domain.rooms.nights import Availability, NightKey, RoomNight
from domain.rooms.tables import room
from domain.stay import Stay

_NIGHT = "room_id, night, capacity, taken, closed, min_stay, closed_to_arrival, closed_to_departure"

OPENED_NIGHTS = text(f"""
    SELECT {_NIGHT} FROM rooms.room_night
    WHERE room_id = :room_id AND night >= :from_on AND night < :until_on
    ORDER BY night
""")

# FOR UPDATE follows ORDER BY, so two transactions that share rows lock them in the same order.
LOCK_NIGHTS = text(f"""
    SELECT {_NIGHT}
    FROM json_to_recordset(CAST(:keys AS json)) AS touched (room_id bigint, night date)
    JOIN rooms.room_night AS opened USING (room_id, night)
    ORDER BY room_id, night
    FOR UPDATE OF opened
""")

# Waits for a transaction that is inserting the same room.
MAKE_ROOMS = text("""
    INSERT INTO rooms.room (id)
    SELECT id FROM unnest(CAST(:room_ids AS bigint[])) AS id ORDER BY id
    ON CONFLICT (id) DO NOTHING
""")

# One writer of a room's calendar at a time. NO KEY, so that the foreign key check of another
# transaction's night does not wait.
LOCK_ROOMS = text("""
    SELECT id FROM rooms.room
    WHERE id = ANY (CAST(:room_ids AS bigint[]))
    ORDER BY id
    FOR NO KEY UPDATE
""")

# Absolute values, since the rows have been locked since they were read; `taken` is not written.
SAVE_NIGHTS = text("""
    INSERT INTO rooms.room_night AS old (
        room_id, night, capacity, capacity_peak,
        closed, min_stay, closed_to_arrival, closed_to_departure
    )
    SELECT room_id, "on", capacity, capacity,
           closed, min_stay, closed_to_arrival, closed_to_departure
    FROM json_to_recordset(CAST(:nights AS json)) AS saved (
        room_id bigint, "on" date, capacity integer,
        closed boolean, min_stay smallint, closed_to_arrival boolean, closed_to_departure boolean
    )
    ON CONFLICT (room_id, night) DO UPDATE SET
        capacity = excluded.capacity,
        capacity_peak = greatest(old.capacity_peak, excluded.capacity),
        closed = excluded.closed,
        min_stay = excluded.min_stay,
        closed_to_arrival = excluded.closed_to_arrival,
        closed_to_departure = excluded.closed_to_departure
""")

NAME_ROOMS = text("""
    UPDATE rooms.room SET name = named.name
    FROM unnest(CAST(:room_ids AS bigint[]), CAST(:names AS text[])) AS named (id, name)
    WHERE room.id = named.id AND room.name IS DISTINCT FROM named.name
""")


def change_nights(connection: Connection, changes: Sequence[Change]) -> list[Changed]:
    """Apply changes in order, and write the changed nights in sets.

    Each change is made on all of its nights or on none, whatever the outcome of the others. Inserts
    new rooms. Locks the rooms, then the nights.
    """
    _lock_rooms(connection, changes)
    before = lock_nights(connection, {(one.room_id, on) for one in changes for on in one.nights})
    saved, outcomes = change.decide(before, changes)
    if saved:
        # In order: the nights of a room are read together, so they should be stored together.
        ordered = [saved[key] for key in sorted(saved)]
        connection.execute(SAVE_NIGHTS, {"nights": as_json(ordered)})
    _name_rooms(connection, changes, outcomes)
    return outcomes


def opened_nights(
    connection: Connection, room_id: int, from_on: date, until_on: date
) -> Sequence[RoomNight]:
    """Read the open nights of [from_on, until_on) in order, without locking."""
    values = {"room_id": room_id, "from_on": from_on, "until_on": until_on}
    return [RoomNight(*row) for row in connection.execute(OPENED_NIGHTS, values)]


def lock_nights(connection: Connection, keys: Collection[NightKey]) -> dict[NightKey, RoomNight]:
    """Lock and read those of these nights that exist."""
    if not keys:
        return {}

    wanted = as_json([{"room_id": room_id, "night": on} for room_id, on in keys])
    locked = (RoomNight(*row) for row in connection.execute(LOCK_NIGHTS, {"keys": wanted}))
    return {night.key: night for night in locked}


def availability(connection: Connection, room_id: int, stay: Stay) -> Availability:
    """Check a stay without locking: another reservation may take the room before this one."""
    day_after = stay.check_out + timedelta(days=1)
    opened = opened_nights(connection, room_id, stay.check_in, day_after)
    known = bool(opened) or bool(connection.scalar(select(room.c.id).where(room.c.id == room_id)))
    return nights.availability(opened, stay, known_room=known)


def as_json(rows: object) -> str:
    return msgspec.json.encode(rows).decode()


def _lock_rooms(connection: Connection, changes: Iterable[Change]) -> None:
    """Lock the rooms; insert first those that a change with a capacity may open."""
    # First, so that no lock of a room is held while the insert waits for another transaction's.
    if opened := {one.room_id for one in changes if one.capacity is not None}:
        connection.execute(MAKE_ROOMS, {"room_ids": list(opened)})
    connection.execute(LOCK_ROOMS, {"room_ids": list({one.room_id for one in changes})})


def _name_rooms(
    connection: Connection, changes: Sequence[Change], outcomes: Sequence[Changed]
) -> None:
    """Give each room the name from the last change that was made and has one."""
    names = {
        one.room_id: one.name
        for one, outcome in zip(changes, outcomes, strict=True)
        if one.name is not None and isinstance(outcome, NightsSet)
    }
    if names:
        connection.execute(NAME_ROOMS, {"room_ids": list(names), "names": list(names.values())})
