"""What the saga's tests are told with: reservations, requests, records, and what came of them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import count
from threading import Event, Thread
from typing import Any
from uuid import UUID

import msgspec
from confluent_kafka import Producer
from sqlalchemy import Connection, Engine, text

import outbox
from consumers.handling import Handler, handle, is_race, is_transient
from consumers.runner import Runner
from domain import messages
from domain.answers import Answer
from domain.messages import Envelope
from domain.reservations import store
from domain.reservations.model import (
    Cause,
    NewReservation,
    Reservation,
    Status,
    by_member,
    cancel,
)
from domain.rooms import calendar
from domain.rooms.change import Change, Changed, NightsSet, nights_of
from domain.stay import Stay
from innbox_process.database import direct_engine
from innbox_process.health import Health
from innbox_process.records import Record
from ops.relay_config import relay_config
from relay.publishing.producer import producer_properties
from relay.relay import Relay
from runtime.settings import Context, Settings
from tests.support.factories import reserved

ALPINE, SEASIDE = 7, 8
EVE = date(2026, 12, 24)
NEW_YEAR = date(2027, 1, 1)
CHRISTMAS = Stay(EVE, EVE + timedelta(days=3))
ANN = 42

_offsets = count()


def open_rooms(engine: Engine, capacity: int = 2) -> None:
    """Open both rooms from Christmas Eve to New Year."""
    with engine.begin() as connection:
        for room_id in (ALPINE, SEASIDE):
            opened = set_nights(connection, room_id, EVE, NEW_YEAR, capacity)
            assert opened == NightsSet(8)


def set_nights(
    connection: Connection,
    room_id: int,
    from_on: date,
    until_on: date,
    capacity: int,
    *,
    name: str | None = None,
) -> Changed:
    """Open the nights of [from_on, until_on), or change how many rooms they have, as the routes do."""
    asked = Change(room_id, nights_of(from_on, until_on), capacity, name=name)
    [outcome] = calendar.change_nights(connection, [asked])
    return outcome


def a_reserve(
    reservation_id: int = 1, message: int = 1, *, room_id: int = ALPINE, stay: Stay = CHRISTMAS
) -> Envelope:
    return messages.room_reserve(reservation_id, room_id, stay, UUID(int=message))


def a_cancel(
    reservation_id: int = 1, message: int = 2, *, room_id: int = ALPINE, stay: Stay = CHRISTMAS
) -> Envelope:
    return messages.room_cancel(reservation_id, room_id, stay, UUID(int=message))


def a_result(
    reservation_id: int = 1,
    answer: Answer = Answer.SUCCESS,
    text: str = "",
    message: int | None = None,
) -> Envelope:
    id_ = UUID(int=message) if message is not None else None
    return messages.reservation_result(reservation_id, answer, text, id_)


def a_record(
    envelope: Envelope, *, partition: int = 0, offset: int | None = None, **headers: str
) -> Record:
    """The message as a consumer would read it, at an offset of its own."""
    return Record(
        envelope.topic,
        partition,
        next(_offsets) if offset is None else offset,
        envelope.key.encode(),
        envelope.value,
        {"ce_id": str(envelope.message_id), **headers},
    )


def records(*envelopes: Envelope) -> list[Record]:
    return [a_record(envelope) for envelope in envelopes]


def a_reservation(engine: Engine, *, room_id: int = ALPINE, stay: Stay = CHRISTMAS) -> Reservation:
    """Reserve as a member does: the reservation and its message in one transaction."""
    request = messages.room_reserve(1, room_id, stay)
    with engine.begin() as connection:
        wish = NewReservation(ANN, room_id, stay)
        reservation = reserved(connection, wish, Cause(request.message_id, by_member(ANN)))
        ours = messages.room_reserve(reservation.id, room_id, stay, request.message_id)
        outbox.append(connection, [ours])
    return reservation


def cancel_reservation(engine: Engine, reservation_id: int) -> None:
    """Cancel as a member does; nothing happens where there is nothing to cancel."""
    with engine.begin() as connection:
        reservation = store.lock(connection, [reservation_id])[reservation_id]
        match cancel(reservation):
            case Reservation() as cancelling:
                request = messages.room_cancel(
                    reservation_id, reservation.room_id, reservation.stay
                )
                cause = Cause(request.message_id, by_member(ANN))
                store.save_transitions(connection, [(cancelling, cause)])
                outbox.append(connection, [request])


def apply(engine: Engine, handler: Handler[Any], *envelopes: Envelope) -> None:
    handle(engine, handler, records(*envelopes), attempts_max=3)


def apply_patiently(engine: Engine, handler: Handler[Any], batch: Sequence[Record]) -> None:
    """Handle a batch as the runner does: again, for as long as it fails by what passes."""
    for _ in range(100):
        try:
            handle(engine, handler, batch, attempts_max=3)
        except Exception as error:
            if not is_transient(error):
                raise
            if not is_race(error):
                engine.dispose()
        else:
            return
    raise AssertionError("it does not pass")


@contextmanager
def a_consumer(
    settings: Settings, engine: Engine, handler: Handler[Any], health: Health | None = None
) -> Iterator[Runner]:
    """A runner in a thread, stopped and joined at the end."""
    stop = Event()
    runner = Runner(engine, handler, settings, health or Health(), stop)
    with _in_a_thread(runner, stop):
        yield runner


@contextmanager
def a_relay(settings: Settings, context: Context = "reservations") -> Iterator[None]:
    """A relay of this context's database in a thread, stopped and joined at the end."""
    engine = direct_engine(settings, settings.database_of(context), "relay", "innbox_relay")
    stop = Event()
    with _in_a_thread(Relay(engine, relay_config(settings), Health(), stop), stop):
        yield
    engine.dispose()


def publish(settings: Settings, batch: Iterable[Record]) -> None:
    """Produce straight to Kafka, in order, where no relay is part of the story."""
    producer = Producer(producer_properties(settings.kafka))
    for record in batch:
        headers: Any = {name: value.encode() for name, value in record.headers.items()}
        topic = settings.kafka_prefix + record.topic
        producer.produce(topic, record.value, record.key, record.partition, headers=headers)
    producer.flush(
        30
    )  # a test may take the broker away once a message is read, but not acknowledged


def taken(engine: Engine, room_id: int = ALPINE) -> dict[date, int]:
    """How many are taken of each night of which any is."""
    with engine.connect() as connection:
        nights = calendar.opened_nights(connection, room_id, EVE, NEW_YEAR)
    return {night.on: night.taken for night in nights if night.taken}


def allocations(engine: Engine) -> dict[int, str]:
    """The state of every allocation, by reservation."""
    return dict(_rows(engine, "SELECT reservation_id, state FROM rooms.allocation"))


def statuses(engine: Engine, ids: Sequence[int]) -> list[Status]:
    found = dict(_rows(engine, "SELECT id, status FROM reservations.reservation"))
    return [Status(found[id_]) for id_ in ids]


def answers(engine: Engine) -> list[tuple[int, str]]:
    """The rooms' answers in the order of the outbox: reservation and status."""
    values = [value for value, _ in _results(engine)]
    return [(value["reservationId"], value["status"]) for value in values]


def causes(engine: Engine) -> list[str]:
    """The request that each of the rooms' answers is for."""
    return [headers["ce_causationid"] for _, headers in _results(engine)]


def overheld(connection: Connection) -> list[tuple[int, date]]:
    """Nights of which not as much is taken as allocations hold: always none (I4)."""
    query = """
        SELECT room_id, night FROM rooms.room_night AS night
        WHERE taken <> (
            SELECT count(*) FROM rooms.allocation AS held
            WHERE held.state = 'HELD' AND held.room_id = night.room_id
              AND night.night >= held.check_in AND night.night < held.check_out
        )
    """
    return [(room_id, night) for room_id, night in connection.execute(text(query))]


def _results(engine: Engine) -> list[tuple[dict[str, Any], dict[str, str]]]:
    query = f"""
        SELECT value, headers FROM outbox.message
        WHERE topic = '{messages.RESERVATION_RESULT}' ORDER BY position
    """
    return [(msgspec.json.decode(value), headers) for value, headers in _rows(engine, query)]


def _rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


@contextmanager
def _in_a_thread(process: Runner | Relay, stop: Event) -> Iterator[None]:
    thread = Thread(target=process.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=15)
        assert not thread.is_alive()
