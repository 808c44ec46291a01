"""Writers whose messages tell whether a reader has lost, repeated or swapped any.

Each key has a counter that is drawn under the key's lock, so the numbers of a key are 1, 2, 3 … in the
order of commits, and a rollback takes its numbers back.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from threading import Event

from confluent_kafka import Message as Record
from sqlalchemy import Connection, Engine, text

import outbox
from domain.messages import TOPICS
from runtime.settings import Settings
from tests.support.kafka_reader import read_topics
from tests.support.relays import a_message
from tests.support.waiting import eventually

KEYS = [f"key-{number}" for number in range(24)]
WRITERS = 2
# Between two transactions of a writer, so that the machine has time for its readers.
PAUSE_S = 0.01
# Of fewer nothing could be told.
MESSAGES_MIN = 100

DRAW = text("UPDATE counter SET drawn = drawn + 1 WHERE key = :key RETURNING drawn")


def make_counters(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (key text PRIMARY KEY, drawn int NOT NULL)"))
        counters = text("INSERT INTO counter SELECT unnest(CAST(:keys AS text[])), 0")
        connection.execute(counters, {"keys": KEYS})


def append_numbers(connection: Connection, keys: Iterable[str]) -> None:
    """Append each key's next number; the key's counter is locked from then on."""
    for key in keys:
        number = connection.execute(DRAW, {"key": key}).scalar_one()
        outbox.append(connection, [a_message(key=key, value=str(number).encode())])


@contextmanager
def a_load(engine: Engine) -> Iterator[None]:
    """Write from several threads for the length of the block, or until there was a load."""
    done = Event()

    def write(random: Random) -> None:
        while not done.wait(PAUSE_S):
            with engine.connect() as connection:
                append_numbers(connection, sorted(random.sample(KEYS, random.randint(1, 4))))
                if random.random() < 0.9:
                    connection.commit()

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, Random(seed)) for seed in range(WRITERS)]
        try:
            yield
            eventually(lambda: _was_there(engine) or any(writer.done() for writer in writers))
        finally:
            done.set()
    for writer in writers:
        writer.result()


def drawn(engine: Engine) -> dict[str, int]:
    """How many messages of each key were committed."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT key, drawn FROM counter WHERE drawn > 0"))
        return {row.key: row.drawn for row in rows}


def assert_delivered(engine: Engine, settings: Settings, *, once: bool = False) -> None:
    """Read until everything committed is in Kafka: its first deliveries in commit order, or all."""
    wanted = drawn(engine)
    total = sum(wanted.values())
    assert total > MESSAGES_MIN, "there was a load"
    found = read_topics(
        settings,
        TOPICS,
        until=lambda found: len(found) >= total and len(set(map(_place, found))) >= total,
    )
    numbers: dict[str, dict[int, None]] = {}
    for key, number in map(_place, found):
        numbers.setdefault(key, {})[number] = None
    firsts = {key: list(seen) for key, seen in numbers.items()}
    assert firsts == {key: list(range(1, count + 1)) for key, count in wanted.items()}
    if once:
        repeated = [place for place, count in Counter(map(_place, found)).items() if count > 1]
        assert repeated == []


def _was_there(engine: Engine) -> bool:
    return sum(drawn(engine).values()) > MESSAGES_MIN


def _place(record: Record) -> tuple[str, int]:
    key, value = record.key(), record.value()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return key.decode(), int(value)
