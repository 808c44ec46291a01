"""Reading while many write: every committed message once, in commit order, and nobody waits for anybody.

Each key has a counter that is drawn under the key's lock, so the numbers of a key are 1, 2, 3 … in the
order of commits, and a rollback takes its numbers back. A reader that delivers exactly that has skipped
nothing, repeated nothing and swapped nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

import outbox
import outbox.reader
from outbox.reader import Cursor, Shard
from tests.support.relays import a_message, append, the_shard

WRITERS = 8
TRANSACTIONS_PER_WRITER = 80
KEYS = [f"key-{number}" for number in range(12)]
LIMITS = [1, 7, 32, 200]  # small ones, so that most differences are read in parts

DRAW = text("UPDATE counter SET drawn = drawn + 1 WHERE key = :key RETURNING drawn")
LOCK = text("SELECT pg_advisory_xact_lock(hashtext(:key))")


@pytest.fixture
def counted(engine: Engine) -> Engine:
    """The database with a counter for each key, which is its aggregate as well."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (key text PRIMARY KEY, drawn int NOT NULL)"))
        keys = [*KEYS, *(f"late-{number}" for number in range(50)), "open"]
        connection.execute(
            text("INSERT INTO counter SELECT unnest(CAST(:keys AS text[])), 0"), {"keys": keys}
        )
    return engine


@dataclass
class Reader:
    """What a relay does, without the brokers."""

    connection: Connection
    shard: Shard
    random: Random
    cursor: Cursor = field(init=False)
    delivered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    parts: int = 0

    def __post_init__(self) -> None:
        self.cursor = self.shard.cursor
        outbox.reader.prepare_session(self.connection)

    def read_once(self) -> int:
        limit = self.random.choice(LIMITS)
        if self.random.random() < 0.5:  # as one of long ago is read
            self.cursor = replace(self.cursor, read_at=0.0)
        reading = outbox.reader.read(self.connection, self.cursor, self.shard.hashes, limit=limit)
        for _, _, key, value, *_ in reading.rows:
            self.delivered[key].append(int(value))
        self.parts += reading.cursor.batch_snapshot is not None
        self.cursor = reading.cursor
        return len(reading.rows)

    @property
    def count(self) -> int:
        return sum(map(len, self.delivered.values()))


def test_every_committed_message_is_read_once_and_in_commit_order(counted: Engine) -> None:
    """With early transaction ids, savepoints, rollbacks, and long transactions that end late or never."""
    direct = create_engine(counted.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with (
        counted.connect() as always_open,
        direct.connect() as reading,
        ThreadPoolExecutor(WRITERS) as pool,
    ):
        append_numbers(always_open, ["open"])
        reader = Reader(reading, the_shard(counted), Random(0))
        writers = [pool.submit(write, counted, Random(seed)) for seed in range(1, WRITERS + 1)]
        read_beside(counted, reader, writers)

        # All of it, though a transaction older than everything is still open.
        assert reader.delivered == committed(counted)
        always_open.commit()
        while reader.read_once():
            pass
    assert reader.delivered == committed(counted)
    assert reader.delivered["open"] == [1]
    assert reader.count > 1_500
    assert reader.parts > 5  # so many, even if the reader comes when all is written


def read_beside(engine: Engine, reader: Reader, writers: Sequence[Future[None]]) -> None:
    """Read until the writers are done and all is read; meanwhile keep long transactions going."""
    late = [f"late-{number}" for number in range(50)]
    with engine.connect() as early, engine.connect() as holding:
        while not all(writer.done() for writer in writers):
            reader.read_once()
            if late and not reader.random.randrange(10):
                finish_late(early, holding, late.pop())
        early.rollback()
        holding.commit()
    for writer in writers:
        writer.result()
    while reader.read_once():
        pass


def finish_late(early: Connection, holding: Connection, key: str) -> None:
    """End two long transactions and begin the next ones.

    `early` took its transaction id long ago and appends just before its commit; `holding` appended long
    ago, and its positions have been overtaken by now.
    """
    append_numbers(early, [key])
    early.commit()
    early.execute(text("SELECT pg_current_xact_id()"))

    holding.commit()
    append_numbers(holding, [key])


def write(engine: Engine, random: Random) -> None:
    for _ in range(TRANSACTIONS_PER_WRITER):
        with engine.connect() as connection:
            if random.random() < 0.5:  # a transaction id from long before the lock
                connection.execute(text("SELECT pg_current_xact_id()"))
            for key in sorted(random.sample(KEYS, random.choice([1, 1, 2]))):
                if random.random() < 0.5:
                    connection.execute(LOCK, {"key": key})
                append_numbers(connection, [key] * random.randint(1, 3))
                append_in_savepoint(connection, key, random)
            if random.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()


def append_in_savepoint(connection: Connection, key: str, random: Random) -> None:
    savepoint = connection.begin_nested()
    append_numbers(connection, [key])
    if random.random() < 0.5:
        savepoint.rollback()
    else:
        savepoint.commit()


def append_numbers(connection: Connection, keys: Sequence[str]) -> None:
    """Append each key's next number; the key's counter is locked from then on."""
    for key in keys:
        number = connection.execute(DRAW, {"key": key}).scalar_one()
        outbox.append(connection, [a_message(key=key, value=str(number).encode())])


def committed(engine: Engine) -> dict[str, list[int]]:
    with engine.connect() as connection:
        drawn = connection.execute(text("SELECT key, drawn FROM counter WHERE drawn > 0"))
        return {row.key: list(range(1, row.drawn + 1)) for row in drawn}


@pytest.mark.parametrize("limit", [1, 3, 10, 100])
def test_a_reading_in_parts_goes_on_from_its_cursor_alone(engine: Engine, limit: int) -> None:
    """So another relay can take it up; what is committed meanwhile comes after it, and once."""
    append_numbered(engine, range(10))
    shard = the_shard(engine)
    direct = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    found: list[int] = []
    cursor, later = shard.cursor, iter([range(10, 20)])
    while len(found) < 20:
        with direct.connect() as connection:
            outbox.reader.prepare_session(connection)
            reading = outbox.reader.read(connection, cursor, shard.hashes, limit=limit)
        cursor = reading.cursor
        found += [int(row[3]) for row in reading.rows]
        for numbers in later:  # after the first part
            append_numbered(engine, numbers)
    assert found == list(range(20))


def append_numbered(engine: Engine, numbers: range) -> None:
    append(engine, *(a_message(value=str(number).encode()) for number in numbers))


def test_no_messages_means_that_nothing_is_left_to_read(engine: Engine) -> None:
    """Also where a backlog filled its last part: what was committed since comes next."""
    direct = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.begin() as connection:
        outbox.append(connection, [a_message(value=b"1"), a_message(value=b"2")])
    with direct.connect() as connection:
        outbox.reader.prepare_session(connection)
        shard = the_shard(engine)
        first = outbox.reader.read(connection, shard.cursor, shard.hashes, limit=2)
        with engine.begin() as writing:
            outbox.append(writing, [a_message(value=b"3")])
        second = outbox.reader.read(connection, first.cursor, shard.hashes, limit=2)
        third = outbox.reader.read(connection, second.cursor, shard.hashes, limit=2)
    assert [[row[3] for row in part.rows] for part in (first, second, third)] == [
        [b"1", b"2"],
        [b"3"],
        [],
    ]


def test_the_floor_allows_for_what_the_sequence_logs_ahead(engine: Engine) -> None:
    """Its page may show 32 values too many for a moment; whatever is drawn next must lie above."""
    append_numbered(engine, range(100))
    direct = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with direct.connect() as connection:
        outbox.reader.prepare_session(connection)
        shard = the_shard(engine)
        cursor = outbox.reader.read(connection, shard.cursor, shard.hashes, limit=1_000).cursor
        drawn = connection.execute(text("SELECT last_value FROM outbox.message_position_seq"))
        assert 0 < cursor.floor <= drawn.scalar_one() - 32
