"""Allocations and room nights in Postgres. Nothing here begins, commits or rolls back.

Every transaction takes its locks in one order, so no deadlock is possible: the existing allocations
(by reservation), the room nights (by room and night), then, on saving, the new allocations (by
reservation). A new allocation cannot be locked before it exists; if another transaction creates it
first, the primary key reports it and the whole batch is decided again (see `save`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, RowMapping, select, text
from sqlalchemy.exc import IntegrityError

from domain.answers import RoomRequest
from domain.rooms import model
from domain.rooms.locking import as_json, lock_nights
from domain.rooms.model import Allocation, Outcome, Rooms, State
from domain.rooms.nights import RoomNight
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
    SELECT * FROM unnest(
        CAST(:reservation_ids AS bigint[]), CAST(:room_ids AS bigint[]),
        CAST(:check_ins AS date[]), CAST(:check_outs AS date[]),
        CAST(:states AS text[]), CAST(:reasons AS text[]),
        CAST(:reserve_message_ids AS uuid[]), CAST(:cancel_message_ids AS uuid[])
    ) AS created (reservation_id)
    ORDER BY reservation_id
""")

CHANGE_ALLOCATIONS = text("""
    UPDATE rooms.allocation
    SET state = changed.state, cancel_message_id = changed.cancel_message_id
    FROM unnest(
        CAST(:reservation_ids AS bigint[]), CAST(:states AS text[]),
        CAST(:cancel_message_ids AS uuid[])
    ) AS changed (reservation_id, state, cancel_message_id)
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
        _change_allocations(connection, outcome.changed)
    if outcome.nights:
        _change_nights(connection, outcome.nights)


def get(connection: Connection, reservation_id: int) -> Allocation | None:
    chosen = select(allocation).where(allocation.c.reservation_id == reservation_id)
    row = connection.execute(chosen).mappings().one_or_none()
    return _allocation(row) if row else None


def _lock_allocations(connection: Connection, ids: Iterable[int]) -> dict[int, Allocation]:
    rows = connection.execute(LOCK_ALLOCATIONS, {"reservation_ids": list(ids)}).mappings()
    return {row["reservation_id"]: _allocation(row) for row in rows}


def _known(connection: Connection, room_ids: set[int]) -> set[int]:
    """Return which of these rooms exist; needed only for rooms without a locked night."""
    if not room_ids:
        return set()

    return set(connection.scalars(KNOWN_ROOMS, {"room_ids": list(room_ids)}))


def _create_allocations(connection: Connection, created: Sequence[Allocation]) -> None:
    columns: dict[str, list[Any]] = {
        "reservation_ids": [one.reservation_id for one in created],
        "room_ids": [one.room_id for one in created],
        "check_ins": [one.stay.check_in for one in created],
        "check_outs": [one.stay.check_out for one in created],
        "states": [one.state.value for one in created],
        "reasons": [one.reason for one in created],
        "reserve_message_ids": [one.reserve_message_id for one in created],
        "cancel_message_ids": [one.cancel_message_id for one in created],
    }
    try:
        connection.execute(CREATE_ALLOCATIONS, columns)
    except IntegrityError as error:
        if _is_taken_key(error):
            raise AllocationRace(columns["reservation_ids"]) from error
        raise


def _is_taken_key(error: IntegrityError) -> bool:
    return (
        isinstance(error.orig, UniqueViolation)
        and error.orig.diag.constraint_name == allocation.primary_key.name
    )


def _change_allocations(connection: Connection, changed: Sequence[Allocation]) -> None:
    columns = {
        "reservation_ids": [one.reservation_id for one in changed],
        "states": [one.state.value for one in changed],
        "cancel_message_ids": [one.cancel_message_id for one in changed],
    }
    connection.execute(CHANGE_ALLOCATIONS, columns)


def _change_nights(connection: Connection, changed: Sequence[RoomNight]) -> None:
    taken = [{"room_id": one.room_id, "night": one.on, "taken": one.taken} for one in changed]
    connection.execute(CHANGE_NIGHTS, {"nights": as_json(taken)})


def _allocation(row: RowMapping) -> Allocation:
    return Allocation(
        row["reservation_id"],
        row["room_id"],
        Stay(row["check_in"], row["check_out"]),
        State(row["state"]),
        row["reason"],
        row["reserve_message_id"],
        row["cancel_message_id"],
    )
