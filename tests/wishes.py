"""Reservations as the API writes them, but for the message, which is the test's to append."""

from sqlalchemy import Connection

from domain.messages import unnumbered_room_reserve
from domain.reservations import reserving
from domain.reservations.model import Cause, NewReservation, Reservation
from domain.reservations.reserving import Order

_RESERVE = reserving.reserve_and("SELECT")


def reserved(connection: Connection, wish: NewReservation, cause: Cause) -> Reservation:
    """Store a PENDING reservation; the cause names the request to append next."""
    request = unnumbered_room_reserve(wish.room_id, wish.stay, cause.message_id)
    order = Order(wish, cause, request, claim=None, pending_max=1_000_000)
    rows = connection.execute(_RESERVE, reserving.binds(order)).all()
    made = reserving.reserved(order, [tuple(row) for row in rows])
    assert isinstance(made, Reservation)
    return made
