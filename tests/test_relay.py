"""The relay: at least once, first deliveries in key order, one owner at a time."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread

from sqlalchemy import Engine, text

import outbox
from domain.messages import ROOM_RESERVE
from outbox import Message
from relay.loop import Relay
from runtime.database import direct_engine
from runtime.health import Health
from runtime.settings import Settings
from tests.kafka_reader import header, ids, read_topics
from tests.waiting import eventually


def a_message(key: str = "7", value: bytes = b"{}") -> Message:
    return Message(ROOM_RESERVE, key, "test", value)


@contextmanager
def a_relay(settings: Settings) -> Iterator[Relay]:
    """A relay in a thread, stopped and joined at the end."""
    engine = direct_engine(settings, settings.database_url, "relay")
    stop = Event()
    relay = Relay(engine, settings, Health(), stop)
    thread = Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        stop.set()
        thread.join(timeout=15)
        engine.dispose()
        assert not thread.is_alive()


def append(engine: Engine, *messages: Message) -> None:
    with engine.begin() as connection:
        outbox.append(connection, messages)


def test_what_is_committed_is_published_with_its_headers(
    engine: Engine, settings: Settings
) -> None:
    message = a_message(value=b'{"reservationId":1}')
    append(engine, message)
    with a_relay(settings):
        (published,) = read_topics(settings, [ROOM_RESERVE], until=bool)

    assert published.key() == b"7"
    assert published.value() == b'{"reservationId":1}'
    assert header(published, "ce_id") == str(message.message_id)
    assert header(published, "ce_specversion") == "1.0"
    assert header(published, "content-type") == "application/json"


def test_a_rollback_leaves_no_message(engine: Engine, settings: Settings) -> None:
    with engine.connect() as connection:
        outbox.append(connection, [a_message()])
        connection.rollback()
    kept = a_message()
    append(engine, kept)
    with a_relay(settings):
        published = read_topics(settings, [ROOM_RESERVE], until=bool)

    assert ids(published) == [str(kept.message_id)]


def test_a_backlog_larger_than_a_reading_is_published_once_and_in_order(
    engine: Engine, settings: Settings
) -> None:
    messages = [a_message(key=str(number % 10)) for number in range(1_000)]
    append(engine, *messages)
    with a_relay(settings.model_copy(update={"relay_chunk": 64})):
        published = read_topics(settings, [ROOM_RESERVE], until=lambda found: len(found) >= 1_000)

    assert sorted(ids(published)) == sorted(str(message.message_id) for message in messages)
    by_key = defaultdict(list)
    for record in published:
        by_key[record.key()].append(header(record, "ce_id"))
    for key, found in by_key.items():
        assert found == [str(m.message_id) for m in messages if m.key.encode() == key]


def test_a_standby_takes_over_when_the_owner_stops(engine: Engine, settings: Settings) -> None:
    with a_relay(settings):
        eventually(lambda: _owner(engine))
        with ThreadPoolExecutor(1) as aside, _stoppable(settings, aside):
            first = a_message()
            append(engine, first)
            read_topics(settings, [ROOM_RESERVE], until=bool)
    assert _owner(engine) is None


def _owner(engine: Engine) -> str | None:
    with engine.connect() as connection:
        owner: str | None = connection.execute(text("SELECT owner FROM outbox.shard")).scalar_one()
    return owner


@contextmanager
def _stoppable(settings: Settings, _aside: ThreadPoolExecutor) -> Iterator[None]:
    with a_relay(settings):
        yield
