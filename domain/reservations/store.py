"""Reservations in Postgres. Nothing here begins, commits or rolls back.

Every change of a reservation and its row in `transition` are one statement, so neither is ever
there without the other.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select, text

from domain.reservations.model import NewReservation, Reservation, Status
from domain.reservations.tables import reservation
from domain.stay import Stay

# Who waits for an answer listens here; the payload names reservation ids, joined by commas.
SETTLED_CHANNEL: Final = "reservations"

# Asked in vain, a saga waits up to 2^6 times as long: an hour, where it was a minute.
DOUBLINGS_MAX: Final = 6


class ReservationMoved(Exception):
    """A reservation is not at the version that was changed: it was not locked when it was read."""

    code = "RESERVATION_MOVED"

    def __init__(self, reservation_ids: Sequence[int]) -> None:
        super().__init__(f"reservations {list(reservation_ids)} moved while they were changed")
        self.reservation_ids = tuple(reservation_ids)


INSERT = text("""
    WITH inserted AS (
        INSERT INTO reservations.reservation (
            member_id, room_id, check_in, check_out, status, version
        )
        VALUES (:member_id, :room_id, :check_in, :check_out, 'PENDING', 1)
        RETURNING id, status, version, created_at
    ), recorded AS (
        INSERT INTO reservations.transition (
            reservation_id, version, status, message_id, created_at
        )
        SELECT id, version, status, :message_id, created_at FROM inserted
    )
    SELECT id, created_at FROM inserted
""")

# In id order, so two batches that share reservations lock them in the same order.
LOCK = text("""
    SELECT * FROM reservations.reservation
    WHERE id = ANY (CAST(:ids AS bigint[]))
    ORDER BY id
    FOR UPDATE
""")

# SKIP LOCKED is right here, and only here: what somebody holds is being settled, cancelled or
# asked again at this moment, so it is not stale; and these rows have no order to keep.
# Each time it was asked again in vain doubles the wait: an outage must not multiply its own backlog.
# How often that was, the versions tell: all since the newest that is no redrive. The first of the two
# conditions on the time is for the index of open sagas.
LOCK_STALE = text("""
    SELECT * FROM reservations.reservation AS waiting
    WHERE status IN ('PENDING', 'CANCELLING')
      AND updated_at < now() - make_interval(secs => :older_than_s)
      AND updated_at < now() - make_interval(secs => :older_than_s * 2 ^ least(
          :doublings_max,
          version - (
              SELECT max(version) FROM reservations.transition
              WHERE reservation_id = waiting.id AND reason IS DISTINCT FROM 'REDRIVEN'
          )
      ))
    ORDER BY updated_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
""")

SAVE = text("""
    WITH changed AS (
        SELECT * FROM unnest(
            CAST(:ids AS bigint[]), CAST(:versions AS integer[]), CAST(:statuses AS text[]),
            CAST(:reasons AS text[]), CAST(:message_ids AS uuid[])
        ) AS changed (id, version, status, reason, message_id)
    ), moved AS (
        UPDATE reservations.reservation AS old
        SET status = changed.status, reason = changed.reason, version = changed.version,
            updated_at = now()
        FROM changed
        WHERE old.id = changed.id AND old.version = changed.version - 1
        RETURNING changed.*
    ), recorded AS (
        INSERT INTO reservations.transition (
            reservation_id, version, status, reason, message_id, created_at
        )
        SELECT id, version, status, reason, message_id, now() FROM moved
    )
    SELECT count(*), now() FROM moved
""")


def insert(connection: Connection, new: NewReservation, message_id: UUID) -> Reservation:
    """Store a PENDING reservation; `message_id` is that of the request to append next."""
    values = {
        "member_id": new.member_id,
        "room_id": new.room_id,
        "check_in": new.stay.check_in,
        "check_out": new.stay.check_out,
        "message_id": message_id,
    }
    id_, now = connection.execute(INSERT, values).one()
    return Reservation(id_, new.member_id, new.room_id, new.stay, Status.PENDING, None, 1, now, now)


def get(
    connection: Connection, reservation_id: int, member_id: int | None = None
) -> Reservation | None:
    """Read one; with a member, only if it is theirs."""
    chosen = select(reservation).where(reservation.c.id == reservation_id)
    if member_id is not None:
        chosen = chosen.where(reservation.c.member_id == member_id)

    row = connection.execute(chosen).mappings().one_or_none()
    return _reservation(row) if row else None


def lock(connection: Connection, ids: Collection[int]) -> dict[int, Reservation]:
    """Lock and read those of `ids` that exist, until the transaction ends."""
    rows = connection.execute(LOCK, {"ids": list(ids)}).mappings()
    return {row["id"]: _reservation(row) for row in rows}


def list_of_member(
    connection: Connection, member_id: int, after_id: int | None, limit: int
) -> list[Reservation]:
    """Read a page of a member's reservations, newest first; `after_id` ended the last page."""
    chosen = select(reservation).where(reservation.c.member_id == member_id)
    if after_id is not None:
        chosen = chosen.where(reservation.c.id < after_id)

    rows = connection.execute(chosen.order_by(reservation.c.id.desc()).limit(limit)).mappings()
    return [_reservation(row) for row in rows]


def save_transitions(
    connection: Connection, changed: Sequence[tuple[Reservation, UUID]]
) -> list[Reservation]:
    """Write next versions of locked reservations, each with the message that goes with it.

    The message is the one appended (a request to the rooms) or, when an answer settled it, the
    one received. Each reservation at most once. Raises ReservationMoved if one was not locked.
    """
    if not changed:
        return []

    columns = {
        "ids": [one.id for one, _ in changed],
        "versions": [one.version for one, _ in changed],
        "statuses": [one.status.value for one, _ in changed],
        "reasons": [one.reason for one, _ in changed],
        "message_ids": [message_id for _, message_id in changed],
    }
    count, now = connection.execute(SAVE, columns).one()
    if count != len(changed):
        raise ReservationMoved([one.id for one, _ in changed])

    return [replace(one, updated_at=now) for one, _ in changed]


def stale(connection: Connection, older_than_s: float, limit: int) -> list[Reservation]:
    """Lock open sagas that have waited this long, longest first, on the database's clock.

    One that was asked again must have waited twice as long since, then four times, and so on.
    """
    values = {"older_than_s": older_than_s, "doublings_max": DOUBLINGS_MAX, "limit": limit}
    return [_reservation(row) for row in connection.execute(LOCK_STALE, values).mappings()]


def statuses(connection: Connection, ids: Collection[int]) -> dict[int, Status]:
    """Read where many reservations stand, for those who wait for them."""
    chosen = text("""
        SELECT id, status FROM reservations.reservation WHERE id = ANY (CAST(:ids AS bigint[]))
    """)
    return {id_: Status(status) for id_, status in connection.execute(chosen, {"ids": list(ids)})}


def _reservation(row: RowMapping) -> Reservation:
    return Reservation(
        row["id"],
        row["member_id"],
        row["room_id"],
        Stay(row["check_in"], row["check_out"]),
        Status(row["status"]),
        row["reason"],
        row["version"],
        row["created_at"],
        row["updated_at"],
    )
