"""Several relays share the shards: whoever joins, leaves, dies or pauses, and however they are cut."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from threading import Event, get_ident
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

import outbox
from outbox import HashRange, Shard
from relay import sharing
from relay.resharding import merge_shards, split_shard
from runtime.database import direct_engine
from runtime.settings import Settings
from tests.load import a_load, assert_delivered, make_counters
from tests.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    messages_of_keys,
    published,
)
from tests.test_relay_lease import lost_leases
from tests.waiting import eventually

# What a busy machine may add to a lease until another relay has noticed and claimed.
MARGIN_S = 10.0

BEATS = text("SELECT name, seen_until FROM outbox.relay")
CONNECTIONS = "datname = current_database() AND application_name = 'innbox-relay'"
COUNT = text(f"SELECT count(*) FROM pg_stat_activity WHERE {CONNECTIONS}")
CUT = text(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {CONNECTIONS}")


@pytest.fixture
def counted(engine: Engine) -> Engine:
    """The database with a counter for each key."""
    make_counters(engine)
    return engine


@pytest.fixture
def direct(settings: Settings) -> Iterator[Engine]:
    """What a command that changes shards works with."""
    engine = direct_engine(settings, settings.database_url, "reshard")
    yield engine
    engine.dispose()


def shards(engine: Engine) -> list[Shard]:
    with engine.connect() as connection:
        return outbox.shards(connection)


def split(direct: Engine, settings: Settings, shard: Shard, *, into: int) -> list[Shard]:
    return split_shard(direct, settings, Event(), shard.id, into=into, wait_s=30)


def merge(direct: Engine, settings: Settings, *pair: Shard) -> Shard:
    ids = [shard.id for shard in pair]
    return merge_shards(direct, settings, Event(), ids, lambda *_: None, wait_s=30)


def pids(engine: Engine) -> dict[int, int]:
    """How many shards each process has; from the owner's name, `host:pid:…`. Empty while one has none."""
    owners = [shard.owner for shard in shards(engine)]
    return Counter(int(owner.split(":")[1]) for owner in owners if owner) if all(owners) else {}


def spread(engine: Engine) -> list[int]:
    """How many shards each relay has, in order of that; empty while one shard has none."""
    owners = [shard.owner for shard in shards(engine)]
    return sorted(Counter(owners).values()) if all(owners) else []


def is_still(engine: Engine) -> bool:
    """Whether no shard changes its owner while every relay beats three times."""
    epochs = {shard.id: shard.epoch for shard in shards(engine)}
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for _ in range(3):
            before = set(connection.execute(BEATS))
            eventually(lambda: before.isdisjoint(connection.execute(BEATS)))  # noqa: B023
    return epochs == {shard.id: shard.epoch for shard in shards(engine)}


def test_relays_join_leave_die_and_pause_under_load_and_nothing_is_lost_or_swapped(
    counted: Engine, settings: Settings, direct: Engine, tmp_path: Path
) -> None:
    """From one relay to four to two; shards are split and merged meanwhile."""

    def started(number: int) -> Popen[bytes]:
        log = tmp_path / f"{number}.log"
        return relays.enter_context(a_relay_process("relays", settings, log))

    with ExitStack() as relays, a_load(counted):
        first = started(1)
        eventually(lambda: pids(counted) == {first.pid: 1})
        split(direct, settings, *shards(counted), into=4)
        eventually(lambda: pids(counted) == {first.pid: 4})

        second, third, fourth = started(2), started(3), started(4)
        four = [first, second, third, fourth]
        eventually(lambda: pids(counted) == {relay.pid: 1 for relay in four})
        eventually(lambda: is_still(counted))

        third.send_signal(signal.SIGSTOP)
        second.kill()
        gone_at = time.monotonic()
        eventually(lambda: pids(counted) == {first.pid: 2, fourth.pid: 2})
        assert time.monotonic() - gone_at < settings.lease_s + MARGIN_S

        third.send_signal(signal.SIGCONT)
        eventually(lambda: "lease lost" in (tmp_path / "3.log").read_text())
        three = {first.pid, third.pid, fourth.pid}
        eventually(lambda: pids(counted).keys() == three and max(pids(counted).values()) == 2)

        fourth.terminate()
        assert fourth.wait(timeout=10) == 0
        eventually(lambda: pids(counted) == {first.pid: 2, third.pid: 2})
        merge(direct, settings, *shards(counted)[1:3])
        eventually(lambda: sorted(pids(counted).values()) == [1, 2])
        eventually(lambda: is_still(counted))
    with a_relay(settings):
        assert_delivered(counted, settings)


def test_shards_are_split_and_merged_under_load_and_nothing_is_lost_or_swapped(
    counted: Engine, settings: Settings, relaying: Settings, direct: Engine
) -> None:
    """Nor doubled in exactly-once mode, though the commands know nothing of the mode."""
    with a_relay(relaying), a_relay(relaying):
        with a_load(counted):
            eventually(lambda: shards(counted)[0].owner)
            split(direct, settings, *shards(counted), into=3)
            eventually(lambda: spread(counted) == [1, 2])
            left, middle, right = shards(counted)
            merged = merge(direct, settings, middle, left)
            split(direct, settings, right, into=2)
            eventually(lambda: spread(counted) == [1, 2])
            first, second, third = shards(counted)
            assert first.id == merged.id
            merge(direct, settings, second, third)
            merge(direct, settings, *shards(counted))
            eventually(lambda: spread(counted) == [1])
        assert_delivered(counted, settings, once=relaying.relay_mode == "exactly-once")


def test_relays_that_start_at_the_same_instant_share_fairly(
    engine: Engine, settings: Settings, direct: Engine
) -> None:
    """Each may think at first that it is alone."""
    split(direct, settings, *shards(engine), into=4)
    with a_relay(settings), a_relay(settings):
        eventually(lambda: spread(engine) == [2, 2])
        eventually(lambda: is_still(engine))


def test_relays_beyond_the_shards_stand_by_and_are_ready(
    engine: Engine, settings: Settings, direct: Engine
) -> None:
    """One of them goes on, with what comes meanwhile too, as soon as one that had a shard leaves."""
    patient = settings.model_copy(update={"lease_s": 600.0})
    split(direct, settings, *shards(engine), into=2)
    with ExitStack() as stack:
        relays = [stack.enter_context(a_relay(patient)) for _ in range(4)]
        eventually(lambda: not any(relay.health.problems for relay in relays))
        eventually(lambda: spread(engine) == [1, 1])
        for relay in relays[:3]:
            relay.stop.set()
        eventually(lambda: spread(engine) == [2])
        messages = messages_of_keys(30, keys=10)
        append(engine, *messages)
        published(patient, messages)


def test_relays_whose_connections_are_cut_keep_their_shards(
    counted: Engine, settings: Settings, direct: Engine
) -> None:
    """They do not wait for their own leases to run out."""
    patient = settings.model_copy(update={"lease_s": 600.0})
    split(direct, settings, *shards(counted), into=4)
    with a_relay(patient), a_relay(patient), a_load(counted):
        eventually(lambda: spread(counted) == [2, 2])
        owners = {shard.id: shard.owner for shard in shards(counted)}
        epochs = {shard.id: shard.epoch for shard in shards(counted)}
        with counted.connect() as connection:
            eventually(lambda: connection.execute(COUNT).scalar_one() == 4 + 2)
            assert connection.execute(CUT).scalar_one() == 4 + 2

        def is_claimed_again() -> bool:
            return all(shard.epoch > epochs[shard.id] for shard in shards(counted))

        eventually(is_claimed_again)
        assert owners == {shard.id: shard.owner for shard in shards(counted)}
    with a_relay(patient):
        assert_delivered(counted, settings)


def test_a_reservation_whose_command_has_died_holds_nothing_up_for_long(
    engine: Engine, settings: Settings
) -> None:
    """The shard is handed over to nobody; then its relay takes it again."""
    with a_relay(settings):
        epoch = eventually(lambda: shards(engine)[0].epoch)
        with engine.begin() as connection:
            outbox.reserve(connection, shards(engine)[0].id, "a dead command", for_s=1)
        eventually(lambda: shards(engine)[0].owner is None)
        eventually(lambda: shards(engine)[0].epoch == epoch + 1)
        message = a_message()
        append(engine, message)
        published(settings, [message])


def test_a_relay_that_hangs_in_one_shard_keeps_the_others_and_another_relay_takes_that_one(
    engine: Engine, settings: Settings, direct: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not ready then, and shares again once it is awake."""
    monkeypatch.setattr(sharing, "_HANGING_S", 1.5)
    split(direct, settings, *shards(engine), into=4)
    with a_relay(settings) as relay:
        eventually(lambda: spread(engine) == [4])
        with a_relay(settings) as other:
            eventually(lambda: spread(engine) == [2, 2])
            ours = shards(engine)[0].owner
            hung, kept = (shard for shard in shards(engine) if shard.owner == ours)
            before = lost_leases()
            with hanging(monkeypatch, hung.hashes):
                append(engine, *messages_of_keys(50, keys=50))
                eventually(lambda: spread(engine) == [1, 3])
                now = {shard.id: shard for shard in shards(engine)}
                assert now[hung.id].owner not in {ours, None}
                assert (now[kept.id].owner, now[kept.id].epoch) == (ours, kept.epoch)
                assert any("hangs" in str(each.health.problems) for each in (relay, other))
            eventually(lambda: lost_leases() > before)
            eventually(lambda: spread(engine) == [2, 2])
            eventually(lambda: not relay.health.problems and not other.health.problems)


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, hashes: HashRange) -> Iterator[None]:
    """Have the thread that reads this range next hang in it until the end of the block."""
    read, awake = outbox.read, Event()
    hangs: list[int] = []

    def hang(connection: Connection, cursor: outbox.Cursor, of: HashRange, **options: Any) -> Any:
        if of == hashes and not hangs:
            hangs.append(get_ident())
        if of == hashes and hangs == [get_ident()]:
            awake.wait(60)
        return read(connection, cursor, of, **options)

    monkeypatch.setattr(outbox, "read", hang)
    try:
        yield
    finally:
        awake.set()
