"""The locks of room nights: batches of reservations and changes of the calendar take them in one order.

Sets of rows are passed as one JSON text, here and where nights are saved: psycopg writes arrays element
by element, which would take a good part of a batch's time. Nothing here begins, commits or rolls back.
"""

from collections.abc import Collection

import msgspec
from sqlalchemy import Connection, text

from domain.rooms.nights import NightKey, RoomNight

# FOR UPDATE follows ORDER BY, so two transactions that share rows lock them in the same order.
LOCK_NIGHTS = text("""
    SELECT night.room_id, night.night, night.capacity, night.taken,
           night.closed, night.min_stay, night.closed_to_arrival, night.closed_to_departure
    FROM json_to_recordset(CAST(:keys AS json)) AS touched (room_id bigint, night date)
    JOIN rooms.room_night AS night
      ON night.room_id = touched.room_id AND night.night = touched.night
    ORDER BY night.room_id, night.night
    FOR UPDATE OF night
""")


def lock_nights(connection: Connection, keys: Collection[NightKey]) -> dict[NightKey, RoomNight]:
    """Lock and read those of these nights that exist."""
    if not keys:
        return {}

    wanted = as_json([{"room_id": room_id, "night": on} for room_id, on in keys])
    rows = connection.execute(LOCK_NIGHTS, {"keys": wanted})
    locked = (RoomNight(*row) for row in rows)
    return {night.key: night for night in locked}


def as_json(rows: object) -> str:
    return msgspec.json.encode(rows).decode()
