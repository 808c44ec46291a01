"""Reservations as the API writes them, but for the message, which is the test's to append."""

from sqlalchemy import Connection

from domain.idempotency import KeyedRequest
from domain.messages import room_reserve_template
from domain.reservations import reserve
from domain.reservations.model import Cause, NewReservation, Reservation
from domain.reservations.reserve import ReserveWrite

_RESERVE = reserve.reserve_sql(lambda *, value, rows: "SELECT")  # noqa: ARG005 - nothing is appended


def reserved(connection: Connection, request: NewReservation, cause: Cause) -> Reservation:
    """Store a PENDING reservation; the cause names the request to append next."""
    message = room_reserve_template(request.room_id, request.stay, cause.message_id)
    keyed = KeyedRequest(request.member_id, None, b"")
    write = ReserveWrite(request, keyed, cause, message, pending_max=1_000_000)
    rows = connection.execute(_RESERVE, reserve.binds(write)).all()
    made = reserve.outcome(write, [tuple(row) for row in rows])
    assert isinstance(made, Reservation)
    return made
