"""Allocations and room nights in Postgres. Nothing here begins, commits or rolls back.

Every transaction takes its locks in one order, so no deadlock is possible: the existing allocations
(by reservation), the room nights (by room and night), then, on saving, the new allocations (by
reservation). A new allocation cannot be locked before it exists; if another transaction creates it
first, the primary key reports it and the whole batch is decided again (see `save`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, select, text
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

    code = "ALLOCATED_MEANWHILE"

    def __init__(self, reservation_ids: Sequence[int]) -> None:
        super().__init__(
            f"another transaction allocated one of {len(reservation_ids)} reservations first"
        )
        self.reservation_ids = tuple(reservation_ids)


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

# ORDER BY: where two batches create the same allocations, both wait in the same order.
CREATE_ALLOCATIONS = text("""
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
""")

CHANGE_ALLOCATIONS = text("""
    UPDATE rooms.allocation
    SET state = changed.state, cancel_message_id = changed.cancel_message_id
    FROM json_to_recordset(CAST(:changed AS json)) AS changed (
        reservation_id bigint, state text, cancel_message_id uuid
    )
    WHERE allocation.reservation_id = changed.reservation_id
""")

# Absolute, not a difference: the row has been locked since it was read.
CHANGE_NIGHTS = text("""
    UPDATE rooms.room_night
    SET taken = changed.taken
    FROM json_to_recordset(CAST(:nights AS json)) AS changed (
        room_id bigint, night date, taken integer
    )
    WHERE room_night.room_id = changed.room_id AND room_night.night = changed.night
""")


def lock(connection: Connection, requests: Sequence[RoomRequest]) -> Rooms:
    """Lock and read all that `decide` may touch for these requests."""
    allocations = _lock_allocations(connection, {request.reservation_id for request in requests})
    locked = lock_nights(connection, model.touched(allocations, requests))
    opened = {night.room_id for night in locked.values()}
    rest = {request.room_id for request in requests} - opened
    return Rooms(allocations, locked, frozenset(opened | _known(connection, rest)))


def save(connection: Connection, outcome: Outcome) -> None:
    """Write the outcome, in sets.

    Raises AllocationRace if a concurrent batch created one of the same allocations: reserve
    and cancel come by two topics, perhaps through two processes, and neither sees the other's
    uncommitted row. The primary key detects that at no cost. (A lock per new reservation would fill
    Postgres' shared lock table; a placeholder row would double the writes of every reservation.)
    """
    if outcome.created:
        _create_allocations(connection, outcome.created)
    if outcome.changed:
        connection.execute(CHANGE_ALLOCATIONS, {"changed": as_json(outcome.changed)})
    if outcome.nights:
        taken = [{"room_id": n.room_id, "night": n.on, "taken": n.taken} for n in outcome.nights]
        connection.execute(CHANGE_NIGHTS, {"nights": as_json(taken)})


def get(connection: Connection, reservation_id: int) -> Allocation | None:
    chosen = select(allocation).where(allocation.c.reservation_id == reservation_id)
    row = connection.execute(chosen).one_or_none()
    return _allocation(row) if row else None


def _lock_allocations(connection: Connection, ids: Iterable[int]) -> dict[int, Allocation]:
    rows = connection.execute(LOCK_ALLOCATIONS, {"reservation_ids": list(ids)})
    return {row.reservation_id: _allocation(row) for row in rows}


def _known(connection: Connection, room_ids: set[int]) -> set[int]:
    """Return which of these rooms exist; needed only for rooms without a locked night."""
    if not room_ids:
        return set()

    return set(connection.scalars(KNOWN_ROOMS, {"room_ids": list(room_ids)}))


def _create_allocations(connection: Connection, created: Sequence[Allocation]) -> None:
    try:
        connection.execute(CREATE_ALLOCATIONS, {"created": as_json(created)})
    except IntegrityError as error:
        if _is_taken_key(error):
            raise AllocationRace([one.reservation_id for one in created]) from error
        raise


def _is_taken_key(error: IntegrityError) -> bool:
    return (
        isinstance(error.orig, UniqueViolation)
        and error.orig.diag.constraint_name == allocation.primary_key.name
    )


def _allocation(row: Sequence[Any]) -> Allocation:
    id_, room_id, check_in, check_out, state, *rest = row
    return Allocation(id_, room_id, Stay(check_in, check_out), State(state), *rest)
