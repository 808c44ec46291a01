"""An API that learns by listening alone what is settled, and whoever settles and rings."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from api.reservations import listening
from domain.answers import Answer, RoomResult
from domain.reservations import store
from domain.reservations.model import ROOMS, Cause, Reservation, settle
from domain.reservations.store import SETTLED_CHANNEL
from outbox import Doorbell
from tests.support.api_client import Api, an_api
from tests.support.waiting import eventually

NEVER_S = 3600.0


@contextmanager
def an_api_that_only_listens(
    database_url: str, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> Iterator[Api]:
    """What it does not hear it never finds out."""
    monkeypatch.setattr(listening, "POLL_S", NEVER_S)
    with an_api(database_url, **changes) as api:
        yield api


def listener(engine: Engine, other_than: int = 0) -> int:
    """Return the process id of the API's listening session once it listens."""
    found: list[int] = []

    def it_listens() -> bool:
        query = text("""
            SELECT pid FROM pg_stat_activity
            WHERE application_name = 'innbox-api-waiting' AND datname = current_database()
              AND query LIKE 'LISTEN%' AND state = 'idle' AND pid <> :other_than
        """)
        with engine.connect() as connection:
            found[:] = connection.scalars(query, {"other_than": other_than})
        return bool(found)

    eventually(it_listens)
    return found[0]


def settled(engine: Engine, reservation_id: int, answer: Answer = Answer.SUCCESS) -> int:
    """Apply an answer of the rooms, as the results consumer does, and return the id to ring for."""
    with engine.begin() as connection:
        apply_answer(connection, reservation_id, answer)
    return reservation_id


def apply_answer(
    connection: Connection, reservation_id: int, answer: Answer = Answer.SUCCESS
) -> None:
    reservation = store.lock(connection, [reservation_id])[reservation_id]
    result = RoomResult(reservation_id, answer, "", uuid4())
    outcome = settle(reservation, result)
    assert isinstance(outcome, Reservation)
    store.save_transitions(connection, [(outcome, Cause(result.message_id, ROOMS))])


def ring(engine: Engine, *reservation_ids: int) -> None:
    doorbell = Doorbell(engine, SETTLED_CHANNEL)
    doorbell.ring(reservation_ids)
    doorbell.close()
