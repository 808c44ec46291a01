"""The lease of a shard: kept while the relay works, given up when it stops, lost when it cannot."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import outbox
from outbox import LeaseLost
from relay import lease, loop
from runtime.health import Health
from runtime.settings import Settings
from tests.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    is_wholly_relayed,
    owner_pid,
    published,
    the_shard,
)
from tests.waiting import eventually


def test_a_long_wait_for_the_bell_keeps_the_lease_and_ends_with_a_stop(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll is far longer than the lease and than any shutdown."""
    monkeypatch.setattr(loop, "_POLL_S_MIN", 60.0)
    patient = settings.model_copy(update={"poll_s_max": 60.0, "lease_s": 0.5})
    with a_relay(patient) as relay:
        first = eventually(lambda: the_shard(engine).leased_until)
        eventually(lambda: the_shard(engine).leased_until != first)
        epoch = the_shard(engine).epoch
        asked_at = time.monotonic()
        relay.stop.set()
        eventually(lambda: the_shard(engine).owner is None)
        assert time.monotonic() - asked_at < 3
    assert epoch == 1


def test_a_relay_that_reconnects_does_not_wait_for_its_own_lease(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        first = outbox.claim(connection, "one", lease_s=60)
        assert outbox.claim(connection, "another", lease_s=60) is None
        second = outbox.claim(connection, "one", lease_s=60)
        assert first is not None
        assert second is not None
        with pytest.raises(LeaseLost):
            outbox.save(connection, first, first.cursor, lease_s=60)
        outbox.save(connection, second, second.cursor, lease_s=60)


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
            assert owner.wait(timeout=10) == 0
            eventually(lambda: owner_pid(engine) not in {None, owner.pid})
    assert owner_pid(engine) is None


def test_a_reading_that_takes_longer_than_the_lease_does_not_lose_it(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two relays would take a huge backlog from each other for ever."""
    message, read = a_message(), outbox.read
    append(engine, message)

    def read_slowly(*arguments: Any, **options: Any) -> outbox.Reading:
        seen: set[object] = set()

        def is_renewed_again() -> bool:
            seen.add(the_shard(engine).leased_until)
            return len(seen) > 5

        eventually(is_renewed_again)
        return read(*arguments, **options)

    monkeypatch.setattr(outbox, "read", read_slowly)
    short = settings.model_copy(update={"lease_s": 0.5})
    with a_relay(short), a_relay(short):
        published(settings, [message])
        eventually(lambda: is_wholly_relayed(engine))
        assert the_shard(engine).epoch == 1


def test_a_relay_that_hangs_loses_its_lease_in_the_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = engine.execution_options(isolation_level="AUTOCOMMIT")
    with direct.connect() as connection:
        shard = outbox.claim(connection, "it hangs", lease_s=0.5)
        assert shard is not None
        monkeypatch.setattr(lease, "_HANGING_S", 0.0)
        with lease.Lease(direct, shard, Health(), lease_s=0.5) as hanging:
            taken = eventually(lambda: outbox.claim(connection, "another", lease_s=60))
            with pytest.raises(LeaseLost):  # should it wake up
                hanging.check()
    assert taken is not None
    assert taken.epoch == shard.epoch + 1


def test_a_lost_lease_is_noticed_without_a_write_of_the_cursor(engine: Engine) -> None:
    """As in a long outage of the brokers."""
    direct = engine.execution_options(isolation_level="AUTOCOMMIT")
    with direct.connect() as connection:
        shard = outbox.claim(connection, "one", lease_s=0.1)
        assert shard is not None
        eventually(lambda: outbox.claim(connection, "another", lease_s=60))
        with lease.Lease(direct, shard, Health(), lease_s=0.1) as lost, pytest.raises(LeaseLost):
            eventually(lost.check)
