"""Allocations and room nights in Postgres. Nothing here begins, commits or rolls back.

Every transaction takes its locks in one order, so no deadlock is possible: the existing allocations
(by reservation), the room nights (by room and night), then, on saving, the new allocations (by
reservation). A new allocation cannot be locked before it exists; if another transaction creates it
first, the primary key reports it and the whole batch is decided again (see `save`).
"""

from collections.abc import Sequence
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from domain.answers import RoomRequest
from domain.rooms import model
from domain.rooms.calendar import as_json, lock_nights
from domain.rooms.model import Allocation, Outcome, Rooms, State
from domain.rooms.tables import allocation
from domain.stay import Stay


class AllocationRace(Exception):
    """Another transaction created one of these allocations first: roll back, decide again.

    It has committed, so the next attempt sees its allocation: one of the two always advances.
    """


# FOR UPDATE follows ORDER BY, so two batches that share rows lock them in the same order.
LOCK_ALLOCATIONS = text("""
    SELECT reservation_id, room_id, check_in, check_out, state, reason,
           reserve_message_id, cancel_message_id
    FROM rooms.allocation
    WHERE reservation_id = ANY (CAST(:reservation_ids AS bigint[]))
    ORDER BY reservation_id
    FOR UPDATE
""")

KNOWN_ROOMS = text("SELECT id FROM rooms.room WHERE id = ANY (CAST(:room_ids AS bigint[]))")

# The whole outcome in one statement, which costs one round trip.
# ORDER BY: where two batches create the same allocations, both wait in the same order.
# Arrays for the changed ones, not JSON: Postgres expects ten rows of the one and a hundred of the other,
# and for a hundred it may read the whole table.
# `taken` is absolute, not a difference: the row has been locked since it was read.
SAVE = text("""
    WITH new AS (
        INSERT INTO rooms.allocation (
            reservation_id, room_id, check_in, check_out, state, reason,
            reserve_message_id, cancel_message_id
        )
        SELECT reservation_id, room_id,
               CAST(stay ->> 'check_in' AS date), CAST(stay ->> 'check_out' AS date),
               state, reason, reserve_message_id, cancel_message_id
        FROM json_to_recordset(CAST(:created AS json)) AS created (
            reservation_id bigint, room_id bigint, stay json, state text, reason text,
            reserve_message_id uuid, cancel_message_id uuid
        )
        ORDER BY reservation_id
    ), moved AS (
        UPDATE rooms.allocation
        SET state = changed.state, cancel_message_id = changed.cancel_message_id
        FROM unnest(
            CAST(:reservation_ids AS bigint[]), CAST(:states AS text[]),
            CAST(:cancel_message_ids AS uuid[])
        ) AS changed (reservation_id, state, cancel_message_id)
        WHERE allocation.reservation_id = changed.reservation_id
    )
    UPDATE rooms.room_night
    SET taken = changed.taken
    FROM json_to_recordset(CAST(:nights AS json)) AS changed (
        room_id bigint, night date, taken integer
    )
    WHERE room_night.room_id = changed.room_id AND room_night.night = changed.night
""")


def lock(connection: Connection, requests: Sequence[RoomRequest]) -> Rooms:
    """Lock and read all that `decide` may touch for these requests."""
    ids = {"reservation_ids": list({request.reservation_id for request in requests})}
    allocated = (_allocation(row) for row in connection.execute(LOCK_ALLOCATIONS, ids))
    allocations = {one.reservation_id: one for one in allocated}
    locked = lock_nights(connection, model.touched(allocations, requests))
    known = {night.room_id for night in locked.values()}
    # Whether a room exists is asked only of rooms without a locked night.
    if rest := {request.room_id for request in requests} - known:
        known.update(connection.scalars(KNOWN_ROOMS, {"room_ids": list(rest)}))
    return Rooms(allocations, locked, frozenset(known))


def save(connection: Connection, outcome: Outcome) -> None:
    """Write the outcome, in sets and in one statement.

    Raises AllocationRace if a concurrent batch created one of the same allocations: reserve
    and cancel come by two topics, perhaps through two processes, and neither sees the other's
    uncommitted row. The primary key detects that at no cost. (A lock per new reservation would fill
    Postgres' shared lock table; a placeholder row would double the writes of every reservation.)
    """
    taken = [{"room_id": n.room_id, "night": n.on, "taken": n.taken} for n in outcome.nights]
    values = {
        "created": as_json(outcome.created),
        "reservation_ids": [one.reservation_id for one in outcome.changed],
        "states": [one.state.value for one in outcome.changed],
        "cancel_message_ids": [one.cancel_message_id for one in outcome.changed],
        "nights": as_json(taken),
    }
    try:
        connection.execute(SAVE, values)
    except IntegrityError as error:
        cause, key = error.orig, allocation.primary_key.name
        if isinstance(cause, UniqueViolation) and cause.diag.constraint_name == key:
            raise AllocationRace(
                f"another transaction allocated one of {len(outcome.created)} reservations first"
            ) from error
        raise


def _allocation(row: Sequence[Any]) -> Allocation:
    id_, room_id, check_in, check_out, state, *rest = row
    return Allocation(id_, room_id, Stay(check_in, check_out), State(state), *rest)
