"""The lease of a shard: kept while the relay works, given up when it stops, lost when it cannot."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine, text

from outbox import reader
from outbox.reader import LeaseLost
from relay import relay as relay_module
from relay import worker
from runtime.settings import Settings
from tests.support.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    is_wholly_relayed,
    lost_leases,
    owner_pid,
    published,
    the_shard,
)
from tests.support.waiting import DEADLINE_S, eventually


def test_a_long_wait_for_the_bell_keeps_the_lease_and_ends_with_a_stop(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll is far longer than the lease and than any shutdown."""
    monkeypatch.setattr(worker, "_POLL_S_MIN", 60.0)
    patient = settings.model_copy(update={"poll_s_max": 60.0, "lease_s": 0.5})
    with a_relay(patient) as relay:
        first = eventually(lambda: the_shard(engine).leased_until)
        eventually(lambda: the_shard(engine).leased_until != first)
        epoch = the_shard(engine).epoch
        relay.stop.set()
        eventually(lambda: the_shard(engine).owner is None)  # which is sooner than the poll
    assert epoch == 1


def test_a_relay_that_reconnects_does_not_wait_for_its_own_lease(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        first = reader.claim(connection, "one", lease_s=60)
        assert reader.claim(connection, "another", lease_s=60) is None
        second = reader.claim(connection, "one", lease_s=60)
        assert first is not None
        assert second is not None
        with pytest.raises(LeaseLost):
            reader.save(connection, first, first.cursor, lease_s=60)
        reader.save(connection, second, second.cursor, lease_s=60)


def test_a_stop_signal_releases_the_shard_to_the_standby_at_once(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """With a lease so long that only a release can be the reason."""
    patient = settings.model_copy(update={"lease_s": 600.0})
    with a_relay_process("relays", patient, tmp_path / "owner.log") as owner:
        eventually(lambda: owner_pid(engine) == owner.pid)
        with a_relay(patient) as standby:
            eventually(lambda: not standby.health.problems)
            owner.terminate()
            assert owner.wait(DEADLINE_S) == 0
            eventually(lambda: owner_pid(engine) not in {None, owner.pid})
    assert owner_pid(engine) is None


def test_a_reading_that_takes_longer_than_the_lease_does_not_lose_it(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two relays would take a huge backlog from each other for ever.

    There is no second one here: it would be right to take over from one that is stalled for so long.
    """
    message, read = a_message(), reader.read
    append(engine, message)

    def read_slowly(*arguments: Any, **options: Any) -> reader.ShardBatch:
        seen: set[object] = set()

        def is_renewed_again() -> bool:
            seen.add(the_shard(engine).leased_until)
            return len(seen) > 5

        eventually(is_renewed_again)
        return read(*arguments, **options)

    monkeypatch.setattr(reader, "read", read_slowly)
    short = settings.model_copy(update={"lease_s": 0.5})
    with a_relay(short):
        published(settings, [message])
        eventually(lambda: is_wholly_relayed(engine))
        assert the_shard(engine).epoch == 1


def test_a_relay_that_hangs_loses_its_lease_in_the_end(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shard goes to another; should it wake up, it writes nothing."""
    message, read, hangs = a_message(), reader.read, Event()
    before = lost_leases()
    append(engine, message)

    def hang(*arguments: Any, **options: Any) -> reader.ShardBatch:
        if not hangs.is_set():
            hangs.set()
            eventually(lambda: not hangs.is_set())
        return read(*arguments, **options)

    monkeypatch.setattr(reader, "read", hang)
    short = settings.model_copy(update={"lease_s": 0.5})
    with a_relay(short):
        eventually(hangs.is_set)
        # Not before: a thread that only starts slowly would count as one that hangs.
        monkeypatch.setattr(relay_module, "_HANGING_S", 0.1)
        direct = engine.execution_options(isolation_level="AUTOCOMMIT")
        with direct.connect() as connection:
            taken = eventually(lambda: reader.claim(connection, "another", lease_s=60))
        assert taken is not None
        assert taken.epoch == 2
        hangs.clear()
        eventually(lambda: lost_leases() > before)
    assert the_shard(engine).owner == "another"


def test_a_lost_lease_is_noticed_without_a_write_of_the_cursor(
    engine: Engine, settings: Settings
) -> None:
    """As in a long outage of the brokers."""
    nowhere = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    before = lost_leases()
    append(engine, a_message())
    with a_relay(nowhere):
        eventually(lambda: the_shard(engine).owner)
        with engine.begin() as connection:
            connection.execute(text("UPDATE outbox.shard SET owner = 'another', epoch = epoch + 1"))
        eventually(lambda: lost_leases() > before)
