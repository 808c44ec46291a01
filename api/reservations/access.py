"""Access to reservations: members see and change their own, the staff everybody's."""

from contextlib import AbstractContextManager
from typing import Literal

from sqlalchemy import Connection, Engine

from api.identity.auth import ScopeMissing
from api.identity.row_security import ALL_MEMBERS, connection_of
from api.identity.scopes import STAFF
from api.identity.tokens import Member
from api.problems import NotFound, refused
from domain.idempotency import KeyedRequest, Mismatch
from domain.reservations import store
from domain.reservations.model import Cause, Reservation, by_member
from runtime.traces import new_uuid, trace_id


def database_member(caller: Member) -> int | Literal["any"]:
    """Return whose rows the database shows this caller; see `api.identity.row_security`."""
    return ALL_MEMBERS if caller.is_staff else caller.id


def member_connection(engine: Engine, caller: Member) -> AbstractContextManager[Connection]:
    return connection_of(engine, database_member(caller))


def member_asked_for(caller: Member, member_id: int | None) -> int | None:
    """Return the member that the caller names; only the staff may name another: `ScopeMissing`."""
    if member_id not in {None, caller.id} and not caller.is_staff:
        raise ScopeMissing(STAFF)
    return member_id


def find(connection: Connection, reservation_id: int, caller: Member) -> Reservation:
    """Read a reservation that this caller may see; raises `NotFound`, also for another member's."""
    member_id = None if caller.is_staff else caller.id
    if (found := store.get(connection, reservation_id, member_id)) is None:
        raise NotFound
    return found


def earlier(
    connection: Connection, request: KeyedRequest, reservation_id: int | None = None
) -> Reservation | None:
    """Return the reservation as an earlier request with this key left it, if there was one.

    Raises `ProblemError` if the key was used for another request.
    """
    found = store.earlier(connection, request, reservation_id) if request.key else None
    if isinstance(found, Mismatch):
        raise refused(found)
    return found


def cause_of(caller: Member, member_id: int, traceparent: str) -> Cause:
    actor = by_member(caller.id, staff=member_id != caller.id)
    return Cause(new_uuid(), actor, trace_id(traceparent))
