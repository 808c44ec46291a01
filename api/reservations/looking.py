"""For whom the API looks: a member sees their own reservations only, the staff everybody's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import Connection, Engine

from api.identity.acting import ANYBODY, act_for
from api.identity.tokens import Member
from api.problems import Missing
from domain.reservations import store
from domain.reservations.model import Reservation


def acts_for(member: Member) -> int | Literal["any"]:
    """Tell for whom the API acts when this member asks; see `api.identity.acting`."""
    return ANYBODY if member.is_staff else member.id


@contextmanager
def looking(engine: Engine, member: Member) -> Iterator[Connection]:
    """Lend a connection that shows what this member may see."""
    with engine.connect() as connection:
        act_for(connection, acts_for(member))
        yield connection


def find(connection: Connection, reservation_id: int, member: Member) -> Reservation:
    """Read a reservation that this member may see; raises `Missing`, also for one of somebody else."""
    whose = None if member.is_staff else member.id
    if (found := store.get(connection, reservation_id, whose)) is None:
        raise Missing
    return found
