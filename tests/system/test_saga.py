"""The whole saga: reserve, publish, apply, publish, settle; in one database, in two, in any order."""

from collections import defaultdict
from functools import partial
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, text

from consumers.dead_letters import open_letters
from consumers.handling import Handler, handle
from consumers.redrive import redrive_once
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE
from domain.reservations.model import Status
from domain.rooms.calendar import change_nights
from domain.rooms.change import Change
from innbox_process.records import Record
from runtime.settings import Settings
from tests.support.saga import (
    ALPINE,
    CHRISTMAS,
    SEASIDE,
    a_reservation,
    allocations,
    cancel_reservation,
    open_rooms,
    overheld,
    statuses,
    taken,
)
from tests.support.waiting import eventually
from tests.support.whole_saga import everything

ROOMS = RoomsHandler()


def tell_the_saga(reservations: Engine, rooms: Engine) -> None:
    """Three want two rooms; one of the two gives up, and a fourth comes too late for nothing."""
    open_rooms(rooms, capacity=2)
    ids = [a_reservation(reservations).id for _ in range(3)]
    eventually(lambda: Status.PENDING not in statuses(reservations, ids))
    assert sorted(statuses(reservations, ids)) == ["CONFIRMED", "CONFIRMED", "REJECTED"]

    gives_up = ids[statuses(reservations, ids).index(Status.CONFIRMED)]
    cancel_reservation(reservations, gives_up)
    eventually(lambda: statuses(reservations, [gives_up]) == [Status.CANCELLED])

    late = a_reservation(reservations).id
    eventually(lambda: statuses(reservations, [late]) == [Status.CONFIRMED])
    assert taken(rooms) == dict.fromkeys(CHRISTMAS.nights, 2)
    assert sorted(allocations(rooms).values()) == ["HELD", "HELD", "REFUSED", "RELEASED"]
    for engine in (reservations, rooms):
        with engine.connect() as connection:
            assert not open_letters(connection)


def test_a_reservation_is_confirmed_rejected_or_cancelled(settings: Settings) -> None:
    with everything(settings) as (reservations, rooms):
        tell_the_saga(reservations, rooms)


def test_the_two_contexts_may_live_in_two_databases(
    settings: Settings, second_database_url: str
) -> None:
    apart = settings.model_copy(update={"rooms_database_url": second_database_url})
    with everything(apart) as (reservations, rooms):
        tell_the_saga(reservations, rooms)
        with reservations.connect() as here, rooms.connect() as there:
            assert here.scalar(text("SELECT count(*) FROM rooms.allocation")) == 0
            assert there.scalar(text("SELECT count(*) FROM reservations.reservation")) == 0


class Saga(RuleBasedStateMachine):
    """Members, rooms and results in one process; what Kafka may do is drawn: any order, any number.

    More than Kafka would ever do: even messages of one key overtake each other.
    """

    def __init__(self, engine: Engine, results: ResultsHandler) -> None:
        super().__init__()
        self.engine = engine
        self.handlers: dict[str, Handler[Any]] = {
            ROOM_RESERVE: ROOMS,
            ROOM_CANCEL: ROOMS,
            RESERVATION_RESULT: results,
        }
        self.ids: list[int] = []
        self.delivered: set[UUID] = set()
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE reservations.reservation CASCADE"))
            connection.execute(text("TRUNCATE rooms.allocation, outbox.message"))
            anew = "taken = 0, closed = false, min_stay = 1, closed_to_departure = false"
            connection.execute(text(f"UPDATE rooms.room_night SET {anew}"))

    @rule(room_id=st.sampled_from([ALPINE, SEASIDE]))
    def reserve(self, room_id: int) -> None:
        self.ids.append(a_reservation(self.engine, room_id=room_id).id)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.ids:
            cancel_reservation(self.engine, data.draw(st.sampled_from(self.ids)))

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Bring any messages, among them some that were brought before."""
        if sent := self.sent():
            self.bring(data.draw(st.lists(st.sampled_from(sent), min_size=1, max_size=6)))

    @rule(closed=st.booleans(), min_stay=st.sampled_from([1, 4]), no_departure=st.booleans())
    def change_the_rules(self, *, closed: bool, min_stay: int, no_departure: bool) -> None:
        """For who asks from now on; what is held stays held."""
        days = (*CHRISTMAS.nights, CHRISTMAS.check_out)
        rules = Change(
            ALPINE, days, closed=closed, min_stay=min_stay, closed_to_departure=no_departure
        )
        with self.engine.begin() as connection:
            change_nights(connection, [rules])

    @rule()
    def ask_again(self) -> None:
        with self.engine.begin() as connection:
            older = "UPDATE reservations.reservation SET updated_at = updated_at - interval '1 day'"
            connection.execute(text(older))
        redrive_once(self.engine, 60)

    @invariant()
    def what_is_taken_is_held(self) -> None:
        with self.engine.connect() as connection:
            assert not overheld(connection)

    def teardown(self) -> None:
        """Once all is delivered, no saga is open, and CONFIRMED are those that are HELD."""
        while late := [record for record in self.sent() if record.message_id not in self.delivered]:
            self.bring(late)
        held = {id_ for id_, state in allocations(self.engine).items() if state == "HELD"}
        found = dict(zip(self.ids, statuses(self.engine, self.ids), strict=True))
        assert not any(status.open for status in found.values())
        assert held == {id_ for id_, status in found.items() if status is Status.CONFIRMED}
        with self.engine.connect() as connection:
            assert not open_letters(connection)

    def sent(self) -> list[Record]:
        query = text("SELECT message_id, topic, key, value FROM outbox.message ORDER BY position")
        with self.engine.connect() as connection:
            return [
                Record(topic, 0, 0, key.encode(), bytes(value), {"ce_id": str(id_)})
                for id_, topic, key, value in connection.execute(query)
            ]

    def bring(self, sent: list[Record]) -> None:
        batches = defaultdict(list)
        for record in sent:
            batches[self.handlers[record.topic].group].append(record)
            self.delivered.add(record.message_id)
        for batch in batches.values():
            handle(self.engine, self.handlers[batch[0].topic], batch, attempts_max=1)


def test_every_saga_ends_right_whatever_is_delayed_doubled_or_overtaken(
    engine: Engine, results: ResultsHandler
) -> None:
    """I4 all the time; I9 and I10 at the end. One room of a kind, so that many are refused."""
    open_rooms(engine, capacity=1)
    a_saga: Any = partial(Saga, engine, results)
    run_state_machine_as_test(
        a_saga,
        settings=examples(
            max_examples=25,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
