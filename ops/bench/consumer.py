"""The rooms consumer's rate beside one transaction per message.

Both are the same runner over topics of their own, with the same messages; the baseline's batches hold one
message, as in a consumer without batches: a database commit and an offset commit for each.
"""

from datetime import date, timedelta
from threading import Event

from confluent_kafka import Producer
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from consumers.rooms import RoomsHandler
from consumers.runner import Runner
from domain import messages
from domain.rooms.calendar import change_nights
from domain.rooms.change import Change, NightsSet, nights_of
from domain.stay import Stay
from innbox_process.commands import Report, reported
from innbox_process.database import pooled_engine
from innbox_process.health import Health
from ops.bench.environment import scratch
from ops.bench.measure import Comparison, Measured, rate
from ops.topics import create_topics
from relay.publishing.producer import producer_properties
from runtime.settings import Settings

ROOMS = 50
NIGHTS = 60
STAY_NIGHTS = 3


def bench_consumer(
    settings: Settings, opens_on: date, report: Report, *, total: int, one_by_one: int, rounds: int
) -> Measured:
    """Apply `total` requests in batches, in turn with `one_by_one` requests one by one."""
    with scratch(settings) as own:
        _open_rooms(own.rooms_database_url, opens_on)
        batched, single = [], []
        for number in reported(report, "one by one, then in batches", range(rounds + 1)):
            first = 1 + number * (total + one_by_one)
            unbatched = own.model_copy(update={"batch_size_max": 1})
            single.append(_round(unbatched, opens_on, first, one_by_one))
            batched.append(_round(own, opens_on, first + one_by_one, total))
    # The first round warms up and does not count.
    applied = Comparison(
        "in batches", "one transaction per message", "per_s", batched[1:], single[1:]
    )
    return Measured(
        "consumer", {"applied": applied}, figures={"messages": total, "one_by_one": one_by_one}
    )


def _round(settings: Settings, opens_on: date, first: int, count: int) -> float:
    """Fill this round's own topics, and return the messages per second of applying them."""
    own = settings.model_copy(update={"kafka_prefix": f"{settings.kafka_prefix}{first}-"})
    create_topics(own)
    _fill(own, opens_on, first, count)
    engine = pooled_engine(own, own.rooms_database_url, "bench")
    runner = Runner(engine, RoomsHandler(), own, Health(), Event())
    try:
        with runner.membership():
            handled = 0
            while not handled:  # joining the group is not measured
                handled = runner.run_once()

            def rest() -> None:
                done = handled
                while done < count:
                    done += runner.run_once()

            return rate(count - handled, rest)
    finally:
        engine.dispose()


def _fill(settings: Settings, opens_on: date, first: int, count: int) -> None:
    producer = Producer(producer_properties(settings.kafka))
    for reservation in range(first, first + count):
        check_in = opens_on + timedelta(days=reservation % (NIGHTS - STAY_NIGHTS))
        stay = Stay(check_in, check_in + timedelta(days=STAY_NIGHTS))
        sent = messages.room_reserve(reservation, reservation % ROOMS + 1, stay)
        headers: dict[str, str | bytes | None] = {
            "ce_id": str(sent.message_id),
            "ce_type": sent.type,
            "ce_source": sent.source,
        }
        producer.produce(settings.kafka_prefix + sent.topic, sent.value, sent.key, headers=headers)
        producer.poll(0)
    producer.flush()


def _open_rooms(url: str, opens_on: date) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        nights = nights_of(opens_on, opens_on + timedelta(days=NIGHTS))
        rooms = range(1, ROOMS + 1)
        changes = [Change(room, nights, capacity=100_000, name=f"Room {room}") for room in rooms]
        opened = change_nights(connection, changes)
        assert all(isinstance(one, NightsSet) for one in opened), "the rooms are new"
        connection.execute(text("ANALYZE rooms.room_night"))
