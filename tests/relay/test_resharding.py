"""Splitting and merging: the change itself, what it waits for, and what is left if it ends early."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from confluent_kafka import KafkaException
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from innbox_process.commands import Report
from innbox_process.database import direct_engine
from innbox_process.health import Health
from ops.environment import as_environment
from ops.relay_config import relay_config
from outbox import admin, reader
from outbox.admin import HandoverTaken, NotNeighbours
from outbox.reader import LeaseLost, Shard
from relay.commands.lease import NotHandedOver
from relay.commands.reshard import merge_shards, split_shard
from relay.publishing.cursor_store import publisher_for
from relay.publishing.errors import Abandoned
from relay.publishing.kafka_cursors import Progress
from runtime.settings import Settings
from tests.support.commands import innbox
from tests.support.process_faults import SETTINGS
from tests.support.relays import (
    a_message,
    a_relay,
    append,
    appended,
    first_deliveries,
    ids_of,
    messages_of_keys,
    published,
)
from tests.support.resharding_children import POINTS
from tests.support.waiting import eventually


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Leases that a test can wait for, and parts of which there are several."""
    return settings.model_copy(update={"lease_s": 1.0, "relay_chunk": 10})


@pytest.fixture
def direct(brief: Settings) -> Iterator[Engine]:
    engine = direct_engine(brief, brief.database_url, "reshard")
    yield engine
    engine.dispose()


@pytest.fixture
def connection(direct: Engine) -> Iterator[Connection]:
    with direct.connect() as connection:
        reader.prepare_session(connection)
        yield connection


@pytest.fixture
def two(connection: Connection) -> list[Shard]:
    """Two shards in place of the one."""
    shard = reader.claim(connection, "a test", lease_s=60)
    assert shard is not None
    return admin.split(connection, shard)


def merge(
    direct: Engine,
    settings: Settings,
    *,
    stop: Event | None = None,
    report: Report = lambda *_: None,
    wait_s: float = 30.0,
) -> Shard:
    """Merge the first two shards that there are."""
    with direct.connect() as connection:
        ids = [shard.id for shard in reader.shards(connection)[:2]]
    return merge_shards(direct, relay_config(settings), stop or Event(), ids, report, wait_s=wait_s)


def as_they_are(connection: Connection) -> list[tuple[int, str | None, str | None]]:
    return [(each.id, each.owner, each.reserved_for) for each in reader.shards(connection)]


def test_a_command_that_dies_anywhere_leaves_whole_shards_and_nothing_doubled(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    """Its leases and reservations run out, and the next one goes on from what it has published."""
    messages = messages_of_keys(100, keys=10)
    append(direct, *messages)
    ids = [str(shard.id) for shard in two]
    for point in POINTS:
        died = subprocess.run(
            [sys.executable, "-m", "tests.support.resharding_children", point, *ids],
            env={SETTINGS: brief.model_dump_json()},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        assert [shard.id for shard in reader.shards(connection)] == [shard.id for shard in two]

    merged = merge(direct, brief)
    records = published(brief, messages)
    assert first_deliveries(records) == appended(messages)
    assert len(records) == len(messages)
    assert as_they_are(connection) == [(merged.id, None, None)]


@pytest.mark.parametrize("has_committed", [False, True])
def test_a_former_owner_is_locked_out_and_what_it_has_published_is_known(
    connection: Connection, direct: Engine, brief: Settings, *, has_committed: bool
) -> None:
    """It has lost its lease in the midst of a transaction, or before it told the database of it.

    Nobody tells the command that the relays' mode is exactly-once.
    """
    messages = messages_of_keys(8)
    append(direct, *messages)
    relaying = brief.model_copy(update={"relay_mode": "exactly-once"})
    short = relay_config(relaying.model_copy(update={"lease_s": 1.0}))
    shard = reader.claim(connection, "a zombie", lease_s=1)
    assert shard is not None
    with publisher_for(connection, shard, short, Health()) as zombie:
        shard = zombie.cursors.resume(lambda: True)
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=100)
        zombie.producer.enqueue(reading.rows, lambda: True)
        if has_committed:
            zombie.cursors.commit(Progress(reading.cursor), lambda: True)
        parts = split_shard(direct, relay_config(brief), Event(), shard.id, into=2, wait_s=30)
        if not has_committed:
            with pytest.raises((KafkaException, LeaseLost)):
                zombie.cursors.commit(Progress(reading.cursor), lambda: True)
    assert all((part.cursor.number > 0) == has_committed for part in parts)

    last = messages_of_keys(5)
    append(direct, *last)
    with a_relay(relaying):
        records = published(brief, [*messages, *last])
    assert first_deliveries(records) == appended([*messages, *last])
    assert len(records) == len(messages) + len(last)


def test_a_merge_passes_over_what_a_blocked_key_holds_back(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    """The key stays blocked in the merged shard, and goes on from its own place."""
    held_back = [a_message(key="blocked") for _ in range(3)]
    others = messages_of_keys(30)
    append(direct, *held_back, *others)
    home = next(shard for shard in two if block_first(connection, shard, "blocked"))
    merged = merge(direct, brief)
    records = published(brief, others)
    assert not set(ids_of(held_back)) & set(ids_of_records(records))
    assert [key.key for key in reader.blocked_keys(connection, merged.hashes)] == ["blocked"]
    assert home.id != merged.id

    with a_relay(brief):
        eventually(lambda: as_they_are(connection)[0][1])
        admin.retry_key(connection, "blocked")
        records = published(brief, [*held_back, *others])
        eventually(lambda: not reader.blocked_keys(connection))
    assert first_deliveries(records) == appended([*held_back, *others])


def block_first(connection: Connection, shard: Shard, key: str) -> bool:
    """Block the key, if the shard's next message is of it, as after a refusal."""
    reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
    if not reading.rows or reading.rows[0][2] != key:
        return False
    ours = reader.claim(connection, "a relay", lease_s=60, shard_id=shard.id)
    assert ours is not None
    reader.block_key(connection, ours, reading.cursor, reading.rows[0][0], "too large")
    reader.release_shard(connection, ours)
    return True


def ids_of_records(records: list[Any]) -> list[str]:
    return [each for found in first_deliveries(records).values() for each in found]


def test_a_merge_that_is_stopped_gives_both_shards_back_as_far_as_they_are(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    append(direct, *messages_of_keys(100, keys=50))
    stop = Event()
    seen: list[tuple[int, int | None]] = []

    def stop_soon(_what: str, done: int, total: int | None) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            stop.set()

    with pytest.raises(Abandoned):
        merge(direct, brief, stop=stop, report=stop_soon)
    assert as_they_are(connection) == [(shard.id, None, None) for shard in two]
    assert reader.shards(connection)[0].cursor.position is not None
    dones = [done for done, _ in seen]
    assert dones == sorted(dones)
    assert all(total and done <= total for done, total in seen)


def test_a_merge_whose_lease_is_lost_changes_nothing(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    append(direct, *messages_of_keys(100, keys=50))

    def lose(*_: object) -> None:
        connection.execute(text("UPDATE outbox.shard SET owner = 'another', epoch = epoch + 1"))

    with pytest.raises(LeaseLost):
        merge(direct, brief, report=lose)
    assert as_they_are(connection) == [(shard.id, "another", None) for shard in two]


def test_a_reading_that_takes_longer_than_the_lease_loses_neither_shard(
    connection: Connection,
    direct: Engine,
    brief: Settings,
    two: list[Shard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append(direct, *messages_of_keys(20, keys=10))
    read_batch = reader.read_batch
    seen: set[object] = set()

    def read_slowly(*arguments: Any, **options: Any) -> reader.ShardBatch:
        def is_renewed_again() -> bool:
            seen.add(tuple(shard.leased_until for shard in reader.shards(connection)))
            return len(seen) > 2 * 5  # a lease is four renewals long

        eventually(is_renewed_again)
        return read_batch(*arguments, **options)

    monkeypatch.setattr(reader, "read_batch", read_slowly)
    merge(direct, brief.model_copy(update={"lease_s": 0.5}))
    assert len(reader.shards(connection)) < len(two)


def test_a_change_of_shards_is_on_the_disk_before_anybody_relays_by_it(
    direct: Engine, brief: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike a cursor, which a crash may take back."""
    change, sources = admin.split, []
    source = text("SELECT source FROM pg_settings WHERE name = 'synchronous_commit'")

    def watched(connection: Connection, shard: Shard, into: int) -> list[Shard]:
        sources.append(connection.execute(source).scalar_one())
        return change(connection, shard, into)

    monkeypatch.setattr(admin, "split", watched)
    split_shard(direct, relay_config(brief), Event(), 1, into=2, wait_s=30)
    assert sources
    assert "session" not in sources


def test_an_owner_that_does_not_hand_over_is_named_and_nothing_stays_reserved(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    """The other one was had already, and is given back."""
    reader.claim(connection, "a stuck relay", lease_s=60, shard_id=two[1].id)
    ids = [shard.id for shard in two]
    with pytest.raises(NotHandedOver, match="a stuck relay"):
        merge(direct, brief, wait_s=0.2)
    assert as_they_are(connection) == [(ids[0], None, None), (ids[1], "a stuck relay", None)]


def test_a_shard_that_another_command_is_about_to_change_is_left_to_it(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    admin.request_handover(connection, two[1].id, "another command", for_s=60)
    with pytest.raises(HandoverTaken, match="another command"):
        merge(direct, brief, wait_s=0.2)
    assert [reserved for _, _, reserved in as_they_are(connection)] == [None, "another command"]


def test_only_neighbours_are_asked_for(
    connection: Connection, direct: Engine, brief: Settings, two: list[Shard]
) -> None:
    (first, *_) = split_shard(direct, relay_config(brief), Event(), two[0].id, into=2, wait_s=30)
    with pytest.raises(NotNeighbours):
        merge_shards(
            direct, relay_config(brief), Event(), [first.id, two[1].id], lambda *_: None, wait_s=30
        )
    assert {owner for _, owner, _ in as_they_are(connection)} == {None}


def test_the_commands_split_show_and_merge(
    connection: Connection, brief: Settings, tmp_path: Path
) -> None:
    environment = as_environment(brief)

    def run(*arguments: str, fails: bool = False) -> Any:
        command = innbox("outbox", *arguments, data=tmp_path, environment=environment)
        assert command.returncode == (2 if fails else 0), command.stderr
        assert "Traceback" not in command.stderr
        return command.stderr if fails else json.loads(command.stdout)

    made = run("split", "1", "--into", "3", "--json")["shards"]
    ids = [str(shard["id"]) for shard in made]
    append(create_engine(brief.database_url, poolclass=NullPool), *messages_of_keys(9, keys=9))
    shown = run("shards", "--json")["shards"]
    assert [str(shard["id"]) for shard in shown] == ids
    assert sum(shard["backlog"] for shard in shown) == 9

    reader.claim(connection, "a stuck relay", lease_s=60, shard_id=int(ids[0]))
    assert "a stuck relay" in run("merge", *ids[:2], "--wait", "0.1", fails=True)
    (merged,) = run("merge", ids[2], ids[1], "--json")["shards"]
    assert [shard.id for shard in reader.shards(connection)] == [int(ids[0]), merged["id"]]
