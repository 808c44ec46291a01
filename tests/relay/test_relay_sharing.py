"""Several relays share the shards: whoever joins, leaves, dies or pauses, and however they are cut."""

import math
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine, text

from innbox_process.database import direct_engine
from ops.relay_config import relay_config
from outbox import admin, reader
from outbox.reader import HashRange, Shard
from relay.commands.reshard import merge_shards, split_shard
from relay.worker import ShardWorker
from runtime.settings import Settings
from tests.support.ordered_writers import a_load, assert_delivered, make_counters
from tests.support.relays import (
    Running,
    a_message,
    a_relay,
    a_relay_process,
    append,
    lost_leases,
    messages_of_keys,
    published,
)
from tests.support.waiting import DEADLINE_S, eventually

# Of a command: no machine stalls it for so long that a relay would take its shards.
LEASE_S = 60.0

BEATS = text("SELECT name, seen_until FROM outbox.relay")
CONNECTIONS = "datname = current_database() AND application_name = 'innbox-relay'"
COUNT = text(f"SELECT count(*) FROM pg_stat_activity WHERE {CONNECTIONS}")
RUN_OUT = text("UPDATE outbox.shard SET leased_until = to_timestamp(0) WHERE id = :id")
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
        return reader.shards(connection)


def split(direct: Engine, settings: Settings, shard: Shard, *, into: int) -> list[Shard]:
    settings = settings.model_copy(update={"lease_s": LEASE_S})
    return split_shard(direct, relay_config(settings), Event(), shard.id, into=into, wait_s=30)


def merge(direct: Engine, settings: Settings, *pair: Shard) -> Shard:
    ids = [shard.id for shard in pair]
    settings = settings.model_copy(update={"lease_s": LEASE_S})
    return merge_shards(direct, relay_config(settings), Event(), ids, lambda *_: None, wait_s=30)


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
        eventually(lambda: pids(counted) == {relay.pid: 1 for relay in four}, deadline_s=60)
        eventually(lambda: is_still(counted))

        third.send_signal(signal.SIGSTOP)
        second.kill()
        eventually(lambda: pids(counted) == {first.pid: 2, fourth.pid: 2})

        third.send_signal(signal.SIGCONT)
        eventually(lambda: "lease lost" in (tmp_path / "3.log").read_text())
        three = {first.pid, third.pid, fourth.pid}
        eventually(lambda: (has := pids(counted)).keys() == three and max(has.values()) == 2)

        fourth.terminate()
        assert fourth.wait(DEADLINE_S) == 0
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
        # In autocommit: a transaction sees the connections that there were when it first looked.
        with counted.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
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
        shard_id = shards(engine)[0].id
        with engine.begin() as connection:
            admin.request_handover(connection, shard_id, "a dead command", for_s=60)
        eventually(lambda: shards(engine)[0].owner is None)
        with engine.begin() as connection:  # and the time is over
            admin.request_handover(connection, shard_id, "a dead command", for_s=0)
        eventually(lambda: shards(engine)[0].epoch == epoch + 1)
        message = a_message()
        append(engine, message)
        published(settings, [message])


def test_a_relay_that_hangs_in_one_shard_keeps_the_others_and_another_relay_takes_that_one(
    engine: Engine, settings: Settings, direct: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not ready then, and shares again once it is awake."""
    settings = settings.model_copy(update={"lease_s": 10.0})  # which a stalled relay keeps
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
                eventually(lambda: any("hangs" in told(each) for each in (relay, other)))
                with engine.begin() as connection:  # its lease is renewed no more
                    connection.execute(RUN_OUT, {"id": hung.id})
                eventually(lambda: spread(engine) == [1, 3])
                now = {shard.id: shard for shard in shards(engine)}
                assert now[hung.id].owner not in {ours, None}
                assert (now[kept.id].owner, now[kept.id].epoch) == (ours, kept.epoch)
                assert any("hangs" in told(each) for each in (relay, other))
            eventually(lambda: lost_leases() > before)
            eventually(lambda: spread(engine) == [2, 2])
            eventually(lambda: not relay.health.problems and not other.health.problems)


def told(relay: Running) -> str:
    return str(relay.health.problems)


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, hashes: HashRange) -> Iterator[None]:
    """Have the thread that relays this range next hang until the end of the block, and seem to for long.

    If hanging took a short time instead, a thread that is only stalled would count as one that hangs.
    """
    relay_once, awake = ShardWorker._relay_once, Event()
    hangs: list[ShardWorker] = []

    def hang(held: ShardWorker, *arguments: Any, **options: Any) -> Any:
        if held.shard.hashes == hashes and not hangs:
            hangs.append(held)
            held.turned_at = -math.inf
            awake.wait(60)
        return relay_once(held, *arguments, **options)

    monkeypatch.setattr(ShardWorker, "_relay_once", hang)
    try:
        yield
    finally:
        awake.set()
