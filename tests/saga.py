"""What the saga's tests are told with: reservations, requests, records, and what came of them."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from itertools import count
from uuid import UUID

import msgspec
from confluent_kafka import Producer
from sqlalchemy import Connection, Engine, text

import outbox
from consumers.records import Record
from domain import messages
from domain.answers import Answer
from domain.messages import Envelope
from domain.reservations import store
from domain.reservations.model import NewReservation, Reservation, Status, cancel
from domain.rooms import calendar
from domain.stay import Stay
from relay.publisher import producer_properties
from runtime.settings import Settings

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
            calendar.set_nights(connection, room_id, EVE, NEW_YEAR, capacity)


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


def a_record(envelope: Envelope, *, offset: int | None = None, **headers: str) -> Record:
    """The message as a consumer would read it, at an offset of its own."""
    return Record(
        envelope.topic,
        0,
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
        reservation = store.insert(connection, wish, request.message_id)
        ours = messages.room_reserve(reservation.id, room_id, stay, request.message_id)
        outbox.append(connection, [ours])
    return reservation


def cancel_reservation(engine: Engine, reservation_id: int) -> None:
    """Cancel as a member does; nothing happens where there is nothing to cancel."""
    with engine.begin() as connection:
        reservation = store.lock(connection, [reservation_id])[reservation_id]
        match cancel(reservation):
            case Reservation() as cancelling:
                request = messages.room_cancel(reservation_id, reservation.room_id, reservation.stay)
                store.save_transitions(connection, [(cancelling, request.message_id)])
                outbox.append(connection, [request])


def publish(settings: Settings, envelopes: Iterable[Envelope]) -> None:
    """Produce straight to Kafka, in order, where no relay is part of the story."""
    producer = Producer(producer_properties(settings.kafka))
    for envelope in envelopes:
        produce(producer, settings, envelope.topic, envelope.value, envelope.key, envelope.message_id)
    producer.flush()


def produce(
    producer: Producer,
    settings: Settings,
    topic: str,
    value: bytes | None,
    key: str = "7",
    message_id: UUID | None = None,
) -> None:
    headers: dict[str, str | bytes | None] = {"ce_id": str(message_id)} if message_id else {}
    producer.produce(settings.kafka_prefix + topic, value, key, headers=headers)


def taken(engine: Engine, room_id: int = ALPINE) -> dict[date, int]:
    """How many are taken of each night of which any is."""
    with engine.connect() as connection:
        nights = calendar.opened_nights(connection, room_id, EVE, NEW_YEAR)
    return {night.on: night.taken for night in nights if night.taken}


def allocations(engine: Engine) -> dict[int, str]:
    """The state of every allocation, by reservation."""
    return dict(_rows(engine, "SELECT reservation_id, state FROM rooms.allocation"))


def statuses(engine: Engine, ids: Sequence[int]) -> list[Status]:
    with engine.connect() as connection:
        found = store.statuses(connection, ids)
    return [found[id_] for id_ in ids]


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


def _results(engine: Engine) -> list[tuple[dict[str, object], dict[str, str]]]:
    query = f"""
        SELECT value, headers FROM outbox.message
        WHERE topic = '{messages.RESERVATION_RESULT}' ORDER BY position
    """
    return [(msgspec.json.decode(value), headers) for value, headers in _rows(engine, query)]


def _rows(engine: Engine, query: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]
