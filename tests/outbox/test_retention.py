"""Partitions come ahead of time and go once nobody needs them, and writers hardly notice."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from importlib import import_module
from threading import Event

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

import outbox
import outbox.reader
from innbox_process.database import direct_engine
from innbox_process.schedule import scheduled
from ops.relay_config import relay_config
from outbox import JobLease, admin
from outbox.admin import PartitionChanges
from outbox.reader import ShardBatch
from relay.housekeeping import maintain_partitions_once
from runtime.settings import Settings
from tests.support.relays import (
    a_relay,
    append,
    ids_of,
    is_wholly_relayed,
    messages_of_keys,
    the_shard,
)
from tests.support.waiting import DEADLINE_S, eventually

# The module, which the function of this name hides.
RETENTION = import_module("outbox.admin.partitions")

# Of the test that runs; read by `_clock`.
NOW: datetime
TODAY: date
LONG_AGO: datetime

FAILURES = "innbox_scheduled_failures_total"

APPEND_LONG_AGO = text("""
    INSERT INTO outbox.message (message_id, topic, key, value, headers, created_at)
    VALUES (gen_random_uuid(), 'room-reserve', '7', '', '{}', :created_at)
""")


@pytest.fixture(autouse=True)
def _clock() -> None:
    """Read the clock for each test: this file may have been imported on the day before."""
    global NOW, TODAY, LONG_AGO  # noqa: PLW0603
    NOW = datetime.now(UTC)
    TODAY, LONG_AGO = NOW.date(), NOW - timedelta(days=30)


@pytest.fixture
def direct(engine: Engine) -> Engine:
    return create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")


@pytest.fixture
def reading(direct: Engine) -> Iterator[Connection]:
    """A connection as a relay has it."""
    with direct.connect() as connection:
        outbox.reader.prepare_session(connection)
        yield connection


def test_partitions_are_made_ahead_once(engine: Engine) -> None:
    wanted = [TODAY + timedelta(days=ahead) for ahead in range(4)]
    assert len(ensure(engine, TODAY)) == 4
    assert ensure(engine, TODAY) == []
    assert len(ensure(engine, TODAY + timedelta(days=1))) == 1
    with engine.connect() as connection:
        assert sorted(admin.partitions(connection))[:4] == wanted


def test_strays_of_a_day_that_is_over_get_their_partition_and_go_with_it(
    direct: Engine, engine: Engine, settings: Settings
) -> None:
    """Nobody makes partitions for past days by itself, so they would stay for ever."""
    day = (NOW - timedelta(days=3)).date()
    with engine.begin() as connection:
        connection.execute(APPEND_LONG_AGO, {"created_at": NOW - timedelta(days=3)})
    maintain_partitions_once(direct, relay_config(settings))
    with engine.connect() as connection:
        assert day in admin.partitions(connection)
        strays = connection.execute(text("SELECT count(*) FROM outbox.message_default"))
        assert strays.scalar_one() == 0
        kept = connection.execute(text(f"SELECT count(*) FROM outbox.message_{day:%Y%m%d}"))
        assert kept.scalar_one() == 1


def test_a_message_lies_in_the_partition_of_its_day(engine: Engine) -> None:
    ensure(engine, TODAY)
    append(engine, *messages_of_keys(3))
    assert rows_in(engine, f"message_{TODAY:%Y%m%d}") == 3
    assert rows_in(engine, "message_default") == 0


def test_strays_are_moved_and_read_exactly_once(engine: Engine, reading: Connection) -> None:
    """Those that were read before the move are not read again after it, and the others are."""
    before, after = messages_of_keys(5), messages_of_keys(5)
    append(engine, *before)
    first = read(engine, reading)
    append(engine, *after)
    ensure(engine, TODAY)
    second = read(engine, reading, first)

    assert rows_in(engine, "message_default") == 0
    assert rows_in(engine, f"message_{TODAY:%Y%m%d}") == 10
    assert [read_ids(first), read_ids(second)] == [ids_of(before), ids_of(after)]
    assert read(engine, reading, second).rows == []


def test_strays_that_are_moved_during_a_reading_are_not_missed(
    engine: Engine, reading: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has begun, and is planned while the move is under way and not committed."""
    monkeypatch.setattr(RETENTION, "_IDLE_TIMEOUT_S", 60)
    messages = messages_of_keys(5)
    append(engine, *messages)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as moving:
            admin.ensure_partitions(moving, TODAY, days_ahead=0)
            reader = pool.submit(read, engine, reading)
            eventually(lambda: reader.done() or waits(engine))
        found = reader.result(DEADLINE_S)
    assert read_ids(found) == ids_of(messages)


def test_a_writer_that_comes_while_its_partition_is_made_is_not_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has begun, and is planned while the new partition is not yet committed."""
    monkeypatch.setattr(RETENTION, "_IDLE_TIMEOUT_S", 60)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as making:
            admin.ensure_partitions(making, TODAY, days_ahead=0)
            writer = pool.submit(append, engine, *messages_of_keys(1))
            eventually(lambda: writer.done() or waits(engine))
        writer.result(DEADLINE_S)
    assert rows_in(engine, f"message_{TODAY:%Y%m%d}") == 1


def test_strays_that_come_during_the_move_do_not_hold_it_up_for_ever(engine: Engine) -> None:
    """Writers go on through the whole of it, and every message ends up in its partition."""
    append(engine, *messages_of_keys(5))
    with ThreadPoolExecutor(4) as pool:
        made = pool.submit(eventually, lambda: attempt(engine))
        writers = [pool.submit(append, engine, *messages_of_keys(2)) for _ in range(200)]
        made.result()
        for writer in writers:
            writer.result()
    assert rows_in(engine, "message_default") == 0
    assert rows_in(engine, f"message_{TODAY:%Y%m%d}") == 405


def test_a_partition_past_retention_is_kept_until_it_is_relayed(
    engine: Engine, settings: Settings
) -> None:
    ensure(engine, LONG_AGO.date(), days_ahead=1)
    old = f"message_{LONG_AGO:%Y%m%d}"
    with engine.begin() as connection:
        connection.execute(APPEND_LONG_AGO, {"created_at": LONG_AGO})
    empty = f"message_{LONG_AGO + timedelta(days=1):%Y%m%d}"
    assert retire(engine) == PartitionChanges([empty], [old])

    with a_relay(settings):
        eventually(lambda: is_wholly_relayed(engine))
    assert retire(engine) == PartitionChanges([old], [])
    assert retire(engine) == PartitionChanges([], [])


def test_within_a_backlog_what_is_published_counts_as_not_yet_relayed(
    engine: Engine, direct: Engine
) -> None:
    """The cursor proper decides; it moves when the whole difference is done."""
    ensure(engine, LONG_AGO.date(), days_ahead=0)
    with engine.begin() as connection:
        for _ in range(2):
            connection.execute(APPEND_LONG_AGO, {"created_at": LONG_AGO})
    with direct.connect() as connection:
        outbox.reader.prepare_session(connection)
        shard = outbox.reader.claim(connection, "a relay", lease_s=60)
        assert shard is not None
        part = outbox.reader.read(connection, shard.cursor, shard.hashes, limit=2)
        shard = outbox.reader.save(connection, shard, part.cursor, lease_s=60)
        assert retire(engine).kept_unrelayed

        rest = outbox.reader.read(connection, shard.cursor, shard.hashes, limit=2)
        outbox.reader.save(connection, shard, rest.cursor, lease_s=60)
        assert retire(engine).dropped


def test_what_a_blocked_key_holds_back_counts_as_not_yet_relayed(
    engine: Engine, reading: Connection
) -> None:
    """The cursor of its shard has passed it; so it is kept until the key is free."""
    ensure(engine, LONG_AGO.date(), days_ahead=0)
    with engine.begin() as connection:
        connection.execute(APPEND_LONG_AGO, {"created_at": LONG_AGO})
    shard = outbox.reader.claim(reading, "a relay", lease_s=60)
    assert shard is not None
    refused = outbox.reader.read(reading, shard.cursor, shard.hashes, limit=1)
    outbox.reader.block_key(reading, shard, refused.cursor, refused.rows[0][0], "too large")
    rest = outbox.reader.read(reading, refused.cursor, shard.hashes, limit=1)
    outbox.reader.save(reading, shard, rest.cursor, lease_s=60)
    assert is_wholly_relayed(engine)
    assert retire(engine).kept_unrelayed

    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outbox.blocked_key"))
    assert retire(engine).dropped


def test_nothing_counts_as_relayed_while_there_is_no_shard(engine: Engine) -> None:
    """As in the midst of a restore, which brings the messages first."""
    ensure(engine, LONG_AGO.date(), days_ahead=0)
    with engine.begin() as connection:
        connection.execute(APPEND_LONG_AGO, {"created_at": LONG_AGO})
        connection.execute(text("DELETE FROM outbox.shard"))
    assert retire(engine).kept_unrelayed


def test_a_writer_that_is_still_open_on_an_old_partition_keeps_it_and_is_not_disturbed(
    engine: Engine,
) -> None:
    """The housekeeper gives up within moments, and its next run sees what was committed."""
    ensure(engine, LONG_AGO.date(), days_ahead=0)
    with engine.begin() as writer:
        writer.execute(APPEND_LONG_AGO, {"created_at": LONG_AGO})
        with pytest.raises(OperationalError, match="lock timeout"):
            retire(engine)
        append(engine, *messages_of_keys(1))
    assert retire(engine).kept_unrelayed


def test_what_a_late_writer_commits_into_an_old_partition_is_kept(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It commits while the housekeeper, to whom the partition looked empty, waits for its lock."""
    monkeypatch.setattr(RETENTION, "LOCK_TIMEOUT_MS", 30_000)
    ensure(engine, LONG_AGO.date(), days_ahead=0)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as writer:
            writer.execute(APPEND_LONG_AGO, {"created_at": LONG_AGO})
            retiring = pool.submit(retire, engine)
            eventually(lambda: waits(engine))
        assert retiring.result(DEADLINE_S).kept_unrelayed


def test_writers_and_readers_go_on_while_partitions_come_and_go(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the housekeeper tries in vain, because somebody else stays: nobody waits behind it.

    A worker that waited for a lock for ten seconds would fail, and with it the test.
    """
    monkeypatch.setattr(RETENTION, "_STATEMENT_TIMEOUT_S", 30)  # should it ever wait for longer
    impatient = create_engine(engine.url, connect_args={"options": "-c lock_timeout=10s"})
    done, over = Counter[str](), Event()

    def write() -> None:
        while not over.is_set():
            append(impatient, *messages_of_keys(2))
            done["written"] += 1

    def look() -> None:
        while not over.is_set():
            rows_in(impatient, "message")
            done["read"] += 1

    def all_go_on(since: Counter[str]) -> bool:
        return done["written"] > since["written"] + 5 and done["read"] > since["read"] + 5

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work) for work in (write, write, look)]
        try:
            for stay in 3 * (stay_and_write, stay_and_read):
                eventually(lambda: attempt(engine, LONG_AGO.date()))
                before = done.copy()
                with engine.connect() as staying:
                    stay(staying)
                    for _ in range(3):
                        with pytest.raises(OperationalError, match="lock timeout"):
                            retire(engine)
                    eventually(lambda: all_go_on(before))  # noqa: B023 - called here and now
                    staying.rollback()
                eventually(lambda: is_retired(engine))
        finally:
            over.set()
        for worker in workers:
            worker.result()
    impatient.dispose()


def test_a_lock_that_was_not_had_is_asked_for_at_the_next_run(
    engine: Engine, settings: Settings
) -> None:
    """By the schedule, with nobody's help; what the run had made is kept."""
    name = f"house {engine.url.database}"
    ensure(engine, TODAY, days_ahead=1)
    ensure(engine, LONG_AGO.date(), days_ahead=0)
    house = direct_engine(settings, settings.database_url, "relay")
    maintain = partial(maintain_partitions_once, house, relay_config(settings))
    with engine.connect() as writer:
        outbox.append(writer, messages_of_keys(1))
        with scheduled(JobLease(house, name), 0.1, maintain):
            eventually(lambda: (REGISTRY.get_sample_value(FAILURES, {"job": name}) or 0) > 1)
            assert LONG_AGO.date() in days(engine)
            assert TODAY + timedelta(days=2) in days(engine)
            writer.rollback()
            eventually(lambda: LONG_AGO.date() not in days(engine))


def test_the_backlog_is_counted_up_to_a_limit(engine: Engine, reading: Connection) -> None:
    append(engine, *messages_of_keys(20))
    shard = outbox.reader.claim(reading, "a relay", lease_s=60)
    assert shard is not None
    assert admin.count_backlog(reading) == 20
    assert admin.count_backlog(reading, newest=15) == 15

    part = outbox.reader.read(reading, shard.cursor, shard.hashes, limit=8)
    shard = outbox.reader.save(reading, shard, part.cursor, lease_s=60)
    append(engine, *messages_of_keys(5))
    assert admin.count_backlog(reading) == 17

    rest = outbox.reader.read(reading, shard.cursor, shard.hashes, limit=1_000)
    shard = outbox.reader.save(reading, shard, rest.cursor, lease_s=60)
    end = outbox.reader.read(reading, shard.cursor, shard.hashes, limit=1_000)
    outbox.reader.save(reading, shard, end.cursor, lease_s=60)
    assert admin.count_backlog(reading) == 0


def test_housekeeping_makes_and_drops(engine: Engine, settings: Settings) -> None:
    ensure(engine, LONG_AGO.date(), days_ahead=2)
    house = direct_engine(settings, settings.database_url, "relay")
    changes = maintain_partitions_once(house, relay_config(settings))
    assert len(changes.dropped) == 3
    assert days(engine) == [TODAY + timedelta(days=ahead) for ahead in range(8)]


def ensure(engine: Engine, today: date, *, days_ahead: int = 3) -> list[str]:
    with engine.begin() as connection:
        return admin.ensure_partitions(connection, today, days_ahead=days_ahead)


def attempt(engine: Engine, day: date | None = None) -> bool:
    """Make a partition as a run of the housekeeper does: if not now, then next time."""
    try:
        ensure(engine, day or TODAY, days_ahead=0)
    except OperationalError:
        return False
    return True


def is_retired(engine: Engine) -> bool:
    """Drop as a run of the housekeeper does: if not now, then next time."""
    try:
        retire(engine)
    except OperationalError:
        return False
    return LONG_AGO.date() not in days(engine)


def stay_and_write(connection: Connection) -> None:
    outbox.append(connection, messages_of_keys(1))


def stay_and_read(connection: Connection) -> None:
    connection.execute(text("SELECT count(*) FROM outbox.message"))


def days(engine: Engine) -> list[date]:
    with engine.connect() as connection:
        return sorted(admin.partitions(connection))


def retire(engine: Engine) -> PartitionChanges:
    with engine.begin() as connection:
        return admin.retire_partitions(connection, NOW, retention_days=7)


def read(engine: Engine, connection: Connection, after: ShardBatch | None = None) -> ShardBatch:
    shard = the_shard(engine)
    cursor = after.cursor if after else shard.cursor
    return outbox.reader.read(connection, cursor, shard.hashes, limit=1_000)


def read_ids(batch: ShardBatch) -> list[str]:
    return [outbox.reader.decode_headers(row[4])["ce_id"] for row in batch.rows]


def rows_in(engine: Engine, partition: str) -> int:
    with engine.connect() as connection:
        count: int = connection.execute(
            text(f"SELECT count(*) FROM outbox.{partition}")
        ).scalar_one()
        return count


def waits(engine: Engine) -> bool:
    """Whether somebody waits for a lock in this database."""
    with engine.connect() as connection:
        waiting = text("""
            SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database()
        """)
        return bool(connection.execute(waiting).scalar_one())
