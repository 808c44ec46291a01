"""The rooms consumer's rate beside one transaction per message.

Both are the same runner over topics of their own, with the same messages; the baseline's batches hold one
message, as in a consumer without batches: a database commit and an offset commit for each.
"""

from datetime import UTC, date, datetime, timedelta
from itertools import count
from threading import Event

from confluent_kafka import Producer
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from consumers.process import BY_KEYS
from consumers.rooms import RoomsHandler
from consumers.runner import Runner
from domain import messages
from domain.rooms.calendar import change_nights
from domain.rooms.change import Change, NightsSet, nights_of
from domain.stay import Stay
from innbox_process.database import pooled_engine
from innbox_process.health import Health
from ops.bench.environment import Run, scratch
from ops.bench.load import NIGHTS, ROOMS, STAY_NIGHTS
from ops.bench.measure import Comparison, Measured, bounded, in_turn, rate, with_rounds
from ops.topics import create_topics
from relay.publishing.producer import producer_properties
from runtime.settings import Settings


@bounded("--messages", 1_000, 1_000_000, 20_000, into="total")
@bounded("--one-by-one", 100, 100_000, 1_000)
@with_rounds
def bench_consumer(run: Run, *, total: int, one_by_one: int, rounds: int) -> Measured:
    """Apply requests in batches, beside one transaction per message.

    \b
    innbox bench consumer
    innbox bench consumer --messages 50000 --json
    """
    opens_on = datetime.now(UTC).date() + timedelta(days=1)
    one_each = "one transaction per message"
    firsts = count(1, step=max(total, one_by_one))  # no reservation is in two rounds
    with scratch(run.settings) as own:
        open_rooms(own.rooms_database_url, opens_on)
        unbatched = own.model_copy(update={"batch_size_max": 1})
        ways = {
            one_each: lambda: _round(unbatched, opens_on, next(firsts), one_by_one),
            "in batches": lambda: _round(own, opens_on, next(firsts), total),
        }
        rates = in_turn(run.report, "applying", rounds, ways)
    applied = Comparison.of(rates, "in batches", one_each)
    figures = {"messages": total, "one_by_one": one_by_one}
    return Measured("consumer", {"applied": applied}, figures=figures)


def _round(settings: Settings, opens_on: date, first: int, count: int) -> float:
    """Fill this round's own topics, and return the messages per second of applying them."""
    own = settings.model_copy(update={"kafka_prefix": f"{settings.kafka_prefix}{first}-"})
    create_topics(own)
    _fill(own, opens_on, first, count)
    engine = pooled_engine(own, own.rooms_database_url, "bench", options=BY_KEYS)
    runner = Runner(engine, RoomsHandler(), own, Health(), Event())
    try:
        with runner.membership():
            rest = count - _handle(runner, 1)  # joining the group is not measured
            return rate(rest, lambda: _handle(runner, rest))
    finally:
        engine.dispose()


def _handle(runner: Runner, least: int) -> int:
    """Handle batches until there were so many messages, and return how many there were."""
    handled = 0
    while handled < least:
        handled += runner.run_once()
    return handled


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


def open_rooms(url: str, opens_on: date) -> None:
    """Open rooms with more nights than any benchmark takes."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        nights = nights_of(opens_on, opens_on + timedelta(days=NIGHTS))
        rooms = range(1, ROOMS + 1)
        changes = [Change(room, nights, capacity=100_000, name=f"Room {room}") for room in rooms]
        opened = change_nights(connection, changes)
        assert all(isinstance(one, NightsSet) for one in opened), "the rooms are new"
        connection.execute(text("ANALYZE rooms.room_night"))
