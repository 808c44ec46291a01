"""Exactly-once publishing: whatever dies or pauses, whenever: committed readers see each message once."""

import signal
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from innbox_process.database import direct_engine
from innbox_process.health import Health
from ops import local
from ops.local import Servers
from ops.local.processes import find_one
from ops.migrate import migrate
from ops.relay_config import relay_config
from ops.topics import create_topics
from outbox import reader
from outbox.reader import Shard
from relay.config import CURSOR_TOPIC
from relay.publishing.cursor_store import publisher_for
from relay.publishing.transactional import TransactionalProducer
from relay.step import Work, relay_once
from runtime.settings import RelayMode, Settings
from tests.conftest import a_configuration
from tests.support.process_faults import MESSAGES_IN_HAND
from tests.support.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    appended,
    assert_read_once,
    committed,
    first_deliveries,
    is_wholly_relayed,
    messages_of_keys,
    owner_pid,
    the_shard,
)
from tests.support.waiting import DEADLINE_S, eventually

# So long that only whoever takes a shard over can have ended what was left open.
PATIENCE_MS = 600_000
BEHIND = (
    "Postgres is behind Kafka (commits lost in a failover?); some messages may be published twice"
)
FLUSHING = text("""
    SELECT pid FROM pg_stat_activity WHERE backend_type IN ('walwriter', 'background writer')
""")
POSTGRES: tuple[local.Part, ...] = ("postgres",)
KAFKA: tuple[local.Part, ...] = ("kafka",)


@pytest.fixture
def exact(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "relay_mode": "exactly-once",
            "lease_s": 0.5,
            "kafka_properties": {"transaction.timeout.ms": str(PATIENCE_MS)},
        }
    )


@pytest.mark.parametrize(
    "children",
    [
        ["dies_with_a_part_of_a_reading_sent"],
        ["dies_after_it_announced"],
        ["dies_with_the_cursor_sent"],
        ["dies_while_the_transaction_ends"],
        ["dies_after_saving"],
        # Kafka's cursor is ahead of Postgres', and those who would find that out die in turn.
        [
            "dies_between_publishing_and_saving",
            "dies_before_it_locks_others_out",
            "dies_before_it_reads_the_cursor",
        ],
    ],
    ids=lambda children: children[0],
)
def test_each_message_is_read_once_at_whatever_step_a_relay_is_killed(
    engine: Engine, exact: Settings, tmp_path: Path, children: list[str]
) -> None:
    messages = messages_of_keys(3 * MESSAGES_IN_HAND)
    append(engine, *messages)
    for child in children:
        with a_relay_process(child, exact, tmp_path / f"{child}.log") as relay:
            assert relay.wait(timeout=30) == -signal.SIGKILL
    assert the_shard(engine).cursor.position is not None, "it had recorded some of the backlog"

    with a_relay(exact):
        eventually(lambda: is_wholly_relayed(engine))
    assert_read_once(exact, messages)


@pytest.mark.parametrize(
    "child",
    [
        "pauses_before_it_locks_others_out",
        "pauses_with_the_cursor_sent",
        "pauses_between_publishing_and_saving",
    ],
)
def test_a_relay_that_was_paused_at_whatever_step_is_refused_and_goes_on_as_a_standby(
    engine: Engine, exact: Settings, tmp_path: Path, child: str
) -> None:
    messages = messages_of_keys(3 * MESSAGES_IN_HAND)
    append(engine, *messages)
    log = tmp_path / "zombie.log"
    with a_relay_process(child, exact, log) as zombie:
        eventually(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED)
        with a_relay(exact) as successor:
            eventually(lambda: is_wholly_relayed(engine))
            zombie.send_signal(signal.SIGCONT)
            eventually(lambda: "lease lost" in log.read_text())
            messages.append(a_message(key="key-0"))
            append(engine, messages[-1])
            eventually(lambda: is_wholly_relayed(engine))
            # Locked out by the one that woke up, the successor begins again, here or there.
            eventually(lambda: not successor.health.problems)
        messages.append(a_message(key="key-0"))
        append(engine, messages[-1])
        eventually(lambda: owner_pid(engine) == zombie.pid and is_wholly_relayed(engine))
        zombie.terminate()
        assert zombie.wait(DEADLINE_S) == 0
    assert_read_once(exact, messages)


def test_modes_may_be_changed_on_a_live_system(engine: Engine, exact: Settings) -> None:
    """In either direction, as often as one likes; after an orderly stop nothing is repeated."""
    messages = messages_of_keys(40)
    append(engine, *messages)
    for mode in ("at-least-once", "exactly-once", "at-least-once", "exactly-once"):
        with a_relay(exact.model_copy(update={"relay_mode": mode})):
            eventually(lambda: is_wholly_relayed(engine))
            messages += (more := messages_of_keys(20))
            append(engine, *more)
            eventually(lambda: is_wholly_relayed(engine))
        messages += (between := messages_of_keys(20))
        append(engine, *between)
    with a_relay(exact):
        eventually(lambda: is_wholly_relayed(engine))
    assert_read_once(exact, messages)


@pytest.mark.parametrize("before", ["at-least-once", "exactly-once"])
def test_a_change_of_mode_after_a_crash_repeats_one_reading_at_most(
    engine: Engine, exact: Settings, tmp_path: Path, before: RelayMode
) -> None:
    """The first relay of each mode dies between Kafka's commit and Postgres', the worst point."""
    messages = messages_of_keys(3 * MESSAGES_IN_HAND)
    append(engine, *messages)
    first = exact.model_copy(update={"relay_mode": before})
    with a_relay_process(
        "dies_between_publishing_and_saving", first, tmp_path / "child.log"
    ) as relay:
        assert relay.wait(timeout=30) == -signal.SIGKILL

    after = "exactly-once" if before == "at-least-once" else "at-least-once"
    for mode in (after, "exactly-once"):
        with a_relay(exact.model_copy(update={"relay_mode": mode})):
            messages += (more := messages_of_keys(20))
            append(engine, *more)
            eventually(lambda: is_wholly_relayed(engine))
    records = committed(exact, messages)
    assert first_deliveries(records) == appended(messages)
    assert len(records) == len(messages) + MESSAGES_IN_HAND


def test_what_a_crash_of_postgres_takes_back_is_neither_repeated_nor_hides_a_message(
    servers: Servers, data: Path
) -> None:
    """Cursors are not flushed, nor are transaction ids; those are given out a second time."""
    unhurried = {"wal_writer_delay": "10s", "autovacuum": "off"}
    with local.running(data, durable=False, parts=POSTGRES, postgres_settings=unhurried) as own:
        migrate(own.database_url)
        here = Servers(own.database_url, servers.kafka_bootstrap_servers)
        exact = a_configuration(here, own.database_url, relay_mode="exactly-once", lease_s=0.5)
        create_topics(exact)
        engine = create_engine(own.database_url, poolclass=NullPool)
        before, after = messages_of_keys(3), messages_of_keys(3)
        append(engine, *before)
        give_out_ids(engine, 1_000)
        with a_shard(exact) as (work, shard):
            pause_flushing(engine)
            relay_once(work, shard)
            kill_postgres(data)
            local.start(data, durable=False, parts=POSTGRES)
        announced = replace(shard.cursor, number=shard.cursor.number + 1)
        assert the_shard(engine).cursor == announced, "the new cursor was taken back"

        append(engine, *after)
        with a_relay(exact):
            eventually(lambda: is_wholly_relayed(engine))
        assert_read_once(exact, before + after)


def test_a_database_that_has_lost_what_it_announced_repeats_and_loses_nothing(
    engine: Engine, exact: Settings
) -> None:
    """As after a fail-over to a standby that lagged: the cursor in Kafka speaks of ids to come."""
    before, after = messages_of_keys(3), messages_of_keys(3)
    was = the_shard(engine)
    append(engine, *before)
    with a_relay(exact):
        eventually(lambda: is_wholly_relayed(engine))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        shard = reader.claim(connection, "a test", lease_s=60)
        assert shard is not None
        reader.release_shard(connection, reader.save(connection, shard, was.cursor, lease_s=60))
    append(engine, *after)
    with capture_logs() as logs, a_relay(exact):
        eventually(lambda: is_wholly_relayed(engine))
    assert BEHIND in events(logs)
    records = committed(exact, before + after)
    assert first_deliveries(records) == appended(before + after)
    assert len(records) == 2 * len(before) + len(after)


def test_without_the_topic_of_cursors_a_relay_waits_and_says_what_to_do(
    engine: Engine, exact: Settings
) -> None:
    message = a_message()
    append(engine, message)
    topic = exact.kafka_prefix + CURSOR_TOPIC
    admin = AdminClient(exact.kafka)
    admin.delete_topics([topic])[topic].result(10)
    eventually(lambda: topic not in admin.list_topics(timeout=10).topics)
    with a_relay(exact) as relay:
        eventually(lambda: "the command `topics`" in relay.health.problems.get("kafka", ""))
        assert relay.health.is_live
        create_topics(exact)
        eventually(lambda: is_wholly_relayed(engine))
        eventually(lambda: not relay.health.problems)
    assert_read_once(exact, [message])


def test_a_queue_that_is_full_makes_the_relay_wait(engine: Engine, exact: Settings) -> None:
    """Also when it is the cursor that finds no room."""
    messages = messages_of_keys(300)
    append(engine, *messages)
    small = exact.model_copy(
        update={"relay_chunk": 20, "kafka_properties": {"queue.buffering.max.messages": "20"}}
    )
    with a_relay(small):
        eventually(lambda: is_wholly_relayed(engine))
    assert_read_once(exact, messages)


@pytest.mark.parametrize("mode", ["at-least-once", "exactly-once"])
def test_what_the_promises_rest_on_is_not_for_the_settings_to_change(
    engine: Engine, exact: Settings, mode: RelayMode
) -> None:
    """Two relays of one `transactional.id` would lock each other out for ever."""
    theirs = {"acks": "1", "enable.idempotence": "false", "transactional.id": "theirs"}
    message = a_message()
    append(engine, message)
    changed = {"relay_mode": mode, "kafka_properties": theirs}
    with a_relay(exact.model_copy(update=changed)):
        eventually(lambda: is_wholly_relayed(engine))
    assert_read_once(exact, [message])
    properties = TransactionalProducer(
        theirs, Health(), "ours", cursor_topic=CURSOR_TOPIC
    )._properties(theirs)
    assert properties["acks"] == "all"
    assert properties["transactional.id"] == "outbox-ours"


@pytest.fixture
def broker(data: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A broker of the test's own, which it may pause.

    A pause that fences the broker leaves its partitions without a leader, and Kafka 4.4 then skips the
    markers of transactions that it aborts: see "What brokers can break" in decision 8.
    """
    patient = {"broker.session.timeout.ms": 60_000}
    with local.running(data, durable=False, parts=KAFKA, kafka_settings=lambda _: patient) as own:
        process = find_one("kafka.Kafka", str(data / "kafka-1/server.properties"))
        assert process is not None
        yield process, own.kafka_bootstrap_servers
        process.resume()


def test_an_outage_that_outlasts_the_transaction_is_waited_out_and_shown(
    engine: Engine,
    servers: Servers,
    broker: tuple[psutil.Process, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The brokers fall silent with a part of a transaction; a stop meanwhile comes soon."""
    process, kafka = broker
    url = engine.url.render_as_string(hide_password=False)
    alone = a_configuration(
        Servers(servers.database_url, kafka),
        url,
        relay_mode="exactly-once",
        kafka_properties={"transaction.timeout.ms": "1000"},
    )
    create_topics(alone)
    send_cursor, is_away = TransactionalProducer.send_cursor, Event()

    def fall_silent_once(publisher: TransactionalProducer, *arguments: Any) -> None:
        if the_shard(engine).cursor.position and not is_away.is_set():
            publisher._producer.flush()
            process.suspend()
            is_away.set()
        send_cursor(publisher, *arguments)

    monkeypatch.setattr(TransactionalProducer, "send_cursor", fall_silent_once)
    messages = messages_of_keys(50)
    append(engine, *messages)
    with a_relay(alone) as relay:
        eventually(is_away.is_set)
        eventually(lambda: the_shard(engine).epoch > 1)  # it has failed, and is tried again
        eventually(lambda: relay.health.problems.get("kafka"))
        assert relay.health.is_live
        relay.stop.set()
        eventually(lambda: the_shard(engine).owner is None)  # the outage goes on
    messages += (more := messages_of_keys(50))
    append(engine, *more)
    with a_relay(alone) as relay:
        process.resume()
        eventually(lambda: is_wholly_relayed(engine))
        eventually(lambda: not relay.health.problems)
    assert_read_once(alone, messages)


@contextmanager
def a_shard(settings: Settings) -> Iterator[tuple[Work, Shard]]:
    """The one shard, claimed and resumed as a relay does it, without the relay."""
    config = relay_config(settings)
    engine = direct_engine(settings, settings.database_url, "relay", "innbox_relay")
    with engine.connect() as connection:
        reader.prepare_session(connection)
        shard = reader.claim(connection, "a test", lease_s=settings.lease_s)
        assert shard is not None
        with publisher_for(connection, shard, config, Health()) as publisher:
            resumed = publisher.cursors.resume(lambda: True)
            yield Work(connection, publisher, config, lambda: True), resumed
        connection.invalidate()
    engine.dispose()


def give_out_ids(engine: Engine, count: int) -> None:
    """Use transaction ids up, as reads that lock and writes that fail do; nothing is flushed for them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(f"""
                DO $$ BEGIN FOR n IN 1..{count} LOOP
                    PERFORM pg_current_xact_id(); COMMIT;
                END LOOP; END $$
            """)
        )


def pause_flushing(engine: Engine) -> None:
    """Suspend who would flush, at some time or other, what no commit waits for."""
    with engine.connect() as connection:
        for pid in connection.scalars(FLUSHING):
            psutil.Process(pid).suspend()


def kill_postgres(data: Path) -> None:
    """End all of its processes as a crash of the machine would, in the midst of whatever they do."""
    pid = int((data / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    postmaster = psutil.Process(pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.suspend()
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=10)


def events(logs: Iterable[MutableMapping[str, Any]]) -> list[str]:
    return [str(line["event"]) for line in logs]
