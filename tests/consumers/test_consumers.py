"""The consumers on a real Kafka: killed, stopped, cut off from either side; effects once."""

import signal
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import (
    KafkaError,
    KafkaException,
)
from sqlalchemy import Engine, create_engine, text

from consumers.rooms import RoomsHandler
from consumers.runner import Runner
from domain.messages import ROOM_RESERVE
from innbox_process.health import Health
from ops import local
from ops.local import Servers
from ops.topics import create_topics
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.brokers import kill_broker, start_broker
from tests.support.consumer_children import a_child
from tests.support.raw_producer import produce_with_header
from tests.support.room_requests import assert_effects_once, committed, held, requests
from tests.support.saga import (
    a_consumer,
    a_reserve,
    open_rooms,
    publish,
)
from tests.support.waiting import eventually

ROOMS = RoomsHandler()


def test_a_kill_between_the_two_commits_has_effects_once(
    engine: Engine, settings: Settings
) -> None:
    """Postgres has committed, Kafka has not heard: everything is delivered again."""
    open_rooms(engine, capacity=100)
    publish(settings, requests(1, 30))
    with a_child("rooms_killed_before_offsets", settings) as child:
        assert child.wait(timeout=30) == -signal.SIGKILL
    assert held(engine) > 0
    assert committed(settings) == 0

    with a_consumer(settings, engine, ROOMS):
        eventually(lambda: committed(settings) == 30)
    assert_effects_once(engine, 30)


def test_a_graceful_stop_leaves_nothing_to_deliver_again(
    engine: Engine, settings: Settings
) -> None:
    """Offsets on their way reach Kafka before the member leaves."""
    open_rooms(engine, capacity=100)
    publish(settings, requests(1, 30))
    runner = Runner(engine, ROOMS, settings, Health(), Event())
    with runner.membership():
        eventually(lambda: runner.run_once() and held(engine) == 30)
    assert committed(settings) == 30


def test_a_stop_ends_the_process_in_order_and_in_time(engine: Engine, settings: Settings) -> None:
    """Who does not hear it within `shutdown_s` ends all the same, but with another exit code."""
    open_rooms(engine)
    publish(settings, requests(1, 1))
    with a_child("rooms", settings) as child:
        eventually(lambda: held(engine))
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 0


def test_an_outage_of_the_database_keeps_the_batch(engine: Engine, settings: Settings) -> None:
    """Connections cut and refused: unready, nobody's fault, and applied when it is back."""
    open_rooms(engine, capacity=1_000)
    health = Health()
    admin = create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    ours = create_engine(engine.url)
    with a_consumer(settings, ours, ROOMS, health), admin.connect() as aside:
        publish(settings, requests(1, 50))
        eventually(lambda: held(engine) == 50)
        engine.dispose()
        aside.execute(text(f"ALTER DATABASE {engine.url.database} ALLOW_CONNECTIONS false"))
        cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        aside.execute(cut, {"name": engine.url.database})
        publish(settings, requests(51, 50))
        eventually(lambda: "database" in health.problems)
        publish(settings, requests(101, 50))
        aside.execute(text(f"ALTER DATABASE {engine.url.database} ALLOW_CONNECTIONS true"))
        eventually(lambda: held(engine) == 150)
        eventually(lambda: committed(settings) == 150)
        assert "database" not in health.problems
    ours.dispose()
    admin.dispose()
    assert_effects_once(engine, 150)


def test_topics_that_are_not_there_yet_are_waited_for(
    engine: Engine, servers: Servers, database_url: str
) -> None:
    """Alive and unready until they are; then at work at once."""
    open_rooms(engine, capacity=100)
    settings = a_configuration(servers, database_url)
    health = Health(parts=("kafka",))
    with a_consumer(settings, engine, ROOMS, health):
        eventually(lambda: "not available" in health.problems.get("kafka", ""))
        create_topics(settings)
        publish(settings, requests(1, 30))
        eventually(lambda: committed(settings) == 30)
        eventually(lambda: not health.problems)


def test_an_outage_of_kafka_is_waited_out_and_forgotten(
    engine: Engine, database_url: str, data: Path
) -> None:
    """Unready while it lasts, ready again without a message; a stop in it waits for no session."""
    open_rooms(engine, capacity=100)
    kafka: tuple[local.Part, ...] = ("kafka",)

    class Last(RoomsHandler):
        def committed(self, _requests: object) -> None:
            """Take the broker away while its offsets are still to be committed."""
            kill_broker(data, 1)

    with local.running(data, parts=kafka, durable=False) as servers:
        # The consumer is given less to end than such a session lasts.
        settings = a_configuration(servers, database_url, consumer_session_s=20.0)
        create_topics(settings)
        health = Health(parts=("kafka",))
        with a_consumer(settings, engine, Last(), health):
            eventually(lambda: not health.problems)
            kill_broker(data, 1)
            eventually(lambda: "kafka" in health.problems)
            start_broker(data, 1)
            eventually(lambda: not health.problems)
            publish(settings, requests(1, 1))
            eventually(lambda: held(engine) and "kafka" in health.problems)
    assert_effects_once(engine, 1)


def test_a_header_that_the_client_cannot_read_stops_nobody(
    engine: Engine, settings: Settings
) -> None:
    """The message is applied without its headers, and those behind it as ever."""
    open_rooms(engine, capacity=100)
    topic = settings.kafka_prefix + ROOM_RESERVE
    publish(settings, requests(1, 30))
    odd = a_reserve(1_000)
    produce_with_header(settings.kafka_bootstrap_servers, topic, odd.value, b"\xff\xfe")
    publish(settings, requests(31, 30))
    with a_consumer(settings, engine, ROOMS):
        eventually(lambda: committed(settings) == 61)
    assert_effects_once(engine, 61)


def test_a_fatal_error_of_the_client_ends_the_process(engine: Engine, settings: Settings) -> None:
    """The client library has given up for good; a supervisor starts anew."""
    runner = Runner(engine, ROOMS, settings, Health(), Event())
    runner._group._on_error(KafkaError(KafkaError._FATAL, "fenced", fatal=True))
    with pytest.raises(KafkaException, match="fenced"):
        runner.run()


def test_a_broken_rule_ends_the_process_and_leaves_the_group(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is neither a message's fault nor passing is not waited out."""

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("a rule is broken")

    publish(settings, requests(1, 1))
    monkeypatch.setattr("consumers.runner.handle", broken)
    with pytest.raises(AssertionError, match="a rule is broken"):
        Runner(engine, ROOMS, settings, Health(), Event()).run()
