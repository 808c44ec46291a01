"""Relays die or pause at the worst moment, brokers go away: nothing is lost or swapped."""

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from domain.messages import ROOM_RESERVE
from ops import local
from ops.local import Servers, kafka
from ops.topics import create_topics
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.brokers import kill_broker, start_broker
from tests.support.kafka_reader import ids
from tests.support.process_faults import MESSAGES_IN_HAND
from tests.support.refusals import allow_all, blocked, forbid_writes
from tests.support.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    appended,
    first_deliveries,
    ids_of,
    is_wholly_relayed,
    messages_of_keys,
    owner_pid,
    published,
    the_shard,
)
from tests.support.waiting import DEADLINE_S, eventually

LEASE_S = 1.0

AUTHORIZER = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
"""

RUN_OUT = text("""
    SELECT NOT EXISTS (SELECT FROM outbox.shard WHERE leased_until > clock_timestamp())
       AND NOT EXISTS (SELECT FROM outbox.relay WHERE seen_until > clock_timestamp())
""")


@pytest.fixture
def leasing(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_s": LEASE_S})


@pytest.mark.parametrize("child", ["dies_between_publishing_and_saving", "dies_while_publishing"])
def test_a_relay_that_is_killed_repeats_the_reading_in_hand_at_most(
    engine: Engine, leasing: Settings, tmp_path: Path, child: str
) -> None:
    messages = messages_of_keys(3 * MESSAGES_IN_HAND)
    append(engine, *messages)
    with a_relay_process(child, leasing, tmp_path / "child.log") as relay:
        assert relay.wait(timeout=30) == -signal.SIGKILL
    assert the_shard(engine).cursor.position is not None, "it had recorded some of the backlog"

    with a_relay(leasing):
        eventually(lambda: is_wholly_relayed(engine))
        records = published(leasing, messages)
    assert first_deliveries(records) == appended(messages)
    assert len(records) <= len(messages) + MESSAGES_IN_HAND


def test_a_standby_takes_over_when_the_lease_of_a_killed_owner_runs_out(
    engine: Engine, leasing: Settings, tmp_path: Path
) -> None:
    with a_relay_process("relays", leasing, tmp_path / "owner.log") as owner:
        eventually(lambda: owner_pid(engine) == owner.pid)
        with a_relay_process("relays", leasing, tmp_path / "standby.log") as standby:
            before, after = a_message(), a_message()
            append(engine, before)
            published(leasing, [before])
            eventually(lambda: is_alive(engine, standby.pid))
            owner.kill()
            append(engine, after)
            eventually(lambda: owner_pid(engine) == standby.pid)
            assert len(published(leasing, [before, after])) >= 2

            standby.terminate()
            assert standby.wait(DEADLINE_S) == 0
    assert the_shard(engine).owner is None


def test_an_owner_that_was_paused_past_its_lease_cannot_move_the_cursor(
    engine: Engine, leasing: Settings, tmp_path: Path
) -> None:
    """It wakes up between publishing and saving, is refused, and nothing is lost or swapped.

    Whoever took over has a long lease, so that a busy machine cannot make it lose its own.
    """
    messages = messages_of_keys(3 * MESSAGES_IN_HAND)
    append(engine, *messages)
    log = tmp_path / "zombie.log"
    with a_relay_process("pauses_between_publishing_and_saving", leasing, log) as zombie:
        eventually(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED)
        eventually(lambda: has_run_out(engine))
        with a_relay(leasing.model_copy(update={"lease_s": 60.0})):
            eventually(lambda: is_wholly_relayed(engine))
            cursor = the_shard(engine).cursor

            zombie.send_signal(signal.SIGCONT)
            eventually(lambda: "lease lost" in log.read_text())
            assert owner_pid(engine) != zombie.pid
            assert the_shard(engine).cursor == cursor

            last = a_message(key="last")
            append(engine, last)
            records = published(leasing, [*messages, last])
    assert first_deliveries(records) == appended([*messages, last])
    assert len(records) <= len(messages) + 1 + MESSAGES_IN_HAND


def is_alive(engine: Engine, pid: int) -> bool:
    """Whether a relay in this process has beaten once, and would be given the shard."""
    with engine.connect() as connection:
        names = connection.scalars(text("SELECT name FROM outbox.relay"))
        return any(int(name.split(":")[1]) == pid for name in names)


def has_run_out(engine: Engine) -> bool:
    """Whether a relay that comes now may claim the shard."""
    with engine.connect() as connection:
        return bool(connection.execute(RUN_OUT).scalar_one())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A broker of this module's own, to be killed and brought back; it minds what rights there are."""
    folder = tmp_path_factory.mktemp("broker")
    parts: tuple[local.Part, ...] = ("kafka",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka, "SETTINGS", kafka.SETTINGS + AUTHORIZER)
        with local.running(folder, durable=False, parts=parts) as servers:
            yield folder, servers.kafka_bootstrap_servers


@pytest.fixture
def alone(broker: tuple[Path, str], servers: Servers, database_url: str) -> Settings:
    """Settings for the broker that may be killed."""
    settings = a_configuration(Servers(servers.database_url, broker[1]), database_url)
    create_topics(settings)
    return settings


def test_an_outage_of_the_brokers_is_waited_out_and_shown(
    engine: Engine, alone: Settings, broker: tuple[Path, str]
) -> None:
    """Appends go on meanwhile; an idle relay notices the outage and its end by itself."""
    folder, _ = broker
    with a_relay(alone) as relay:
        first = a_message()
        append(engine, first)
        published(alone, [first])
        eventually(lambda: not relay.health.problems)

        kill_broker(folder)
        eventually(lambda: relay.health.problems.get("kafka"))
        start_broker(folder)
        eventually(lambda: not relay.health.problems)

        kill_broker(folder)
        backlog = messages_of_keys(300)
        for message in backlog:
            append(engine, message)
        assert eventually(lambda: relay.health.problems.get("kafka"))
        assert relay.health.is_live
        assert not is_wholly_relayed(engine)

        start_broker(folder)
        records = published(alone, [first, *backlog])
        eventually(lambda: is_wholly_relayed(engine))
        eventually(lambda: not relay.health.problems)
    assert first_deliveries(records) == appended([first, *backlog])
    assert len(records) == len(backlog) + 1, "the idempotent producer repeats nothing"


def test_a_stop_during_an_outage_of_the_brokers_comes_soon_and_releases_the_shard(
    engine: Engine, alone: Settings, broker: tuple[Path, str]
) -> None:
    folder, _ = broker
    messages = messages_of_keys(50)
    try:
        with a_relay(alone) as relay:
            eventually(lambda: not relay.health.problems)
            kill_broker(folder)
            append(engine, *messages)
            eventually(lambda: relay.health.problems.get("kafka"))

            relay.stop.set()
            eventually(lambda: the_shard(engine).owner is None)  # the outage goes on
    finally:
        start_broker(folder)

    with a_relay(alone):
        records = published(alone, messages)
    assert first_deliveries(records) == appended(messages)


@pytest.mark.parametrize("mode", ["at-least-once", "exactly-once"])
def test_a_right_that_is_missing_is_named_and_blocks_nobody(
    engine: Engine, alone: Settings, mode: str
) -> None:
    """And when it is granted the relay goes on by itself."""
    settings = alone.model_copy(update={"relay_mode": mode})
    forbid_writes(settings)
    messages = messages_of_keys(5)
    append(engine, *messages)
    with a_relay(settings) as relay:
        eventually(lambda: "authorization failed" in relay.health.problems.get("kafka", ""))
        assert "grant the relay's user Describe and Write" in relay.health.problems["kafka"]
        assert not blocked(engine)

        allow_all(settings)
        records = published(settings, messages)
        eventually(lambda: not relay.health.problems)
    assert first_deliveries(records) == appended(messages)
    assert not blocked(engine)


def test_records_that_brokers_have_lost_are_told_of_and_the_relay_goes_on(
    engine: Engine, alone: Settings, broker: tuple[Path, str]
) -> None:
    """As a broker does that comes back without the end of a log which it had acknowledged."""
    folder, _ = broker
    topic = alone.kafka_prefix + ROOM_RESERVE
    kept, lost, after = a_message(), a_message(), a_message()
    losses = broker_losses()
    with capture_logs() as logs, a_relay(alone) as relay:
        for message in (kept, lost):
            append(engine, message)
            eventually(lambda: is_wholly_relayed(engine))
        kill_broker(folder)
        cut_off_the_last_batch(folder, topic)
        start_broker(folder)

        append(engine, after)
        records = published(alone, [after])
        eventually(lambda: not relay.health.problems)
    assert ids(records) == ids_of([kept, after])
    (told,) = [one for one in logs if one["event"] == "brokers have lost acknowledged records"]
    assert told["log_level"] == "error"
    assert topic in told["reason"]
    assert "innbox outbox audit --mend" in told["reason"]
    assert broker_losses() == losses + 1
    assert not blocked(engine)


def cut_off_the_last_batch(folder: Path, topic: str) -> None:
    """Take it from the one partition that has any; the broker must be dead."""
    logs = (folder / "kafka-1" / "records").glob(f"{topic}-*/*.log")
    log = max(logs, key=lambda log: log.stat().st_size)
    content, begin, last = log.read_bytes(), 0, 0
    # Offset and length stand before each batch; behind the last one there may be room for more.
    while begin < len(content) and (length := struct.unpack_from(">qi", content, begin)[1]):
        begin, last = begin + 12 + length, begin
    os.truncate(log, last)
    for snapshot in log.parent.glob("*.snapshot"):
        snapshot.unlink()


def broker_losses() -> float:
    return REGISTRY.get_sample_value("innbox_relay_broker_losses_total") or 0.0
