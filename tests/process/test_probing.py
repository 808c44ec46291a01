"""Probes tell what a process depends on, and its health what the probes tell, or that they do not."""

import socket
from collections.abc import Sequence
from contextlib import closing
from itertools import count, pairwise
from threading import Event
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Connection, Engine, MetaData, create_engine, text

import outbox
from api.databases import SCHEMA as API_SCHEMA
from consumers.process import RESULTS_SCHEMA, ROOMS_SCHEMA
from consumers.rooms import RoomsHandler
from domain.messages import TOPICS
from innbox_process import brokers, health, probing
from innbox_process.brokers import BrokersAway, KafkaProbe
from innbox_process.health import Health
from innbox_process.probing import CommitProbe, DatabaseProbe
from ops.local import Servers
from ops.migrate import migrate
from ops.topics import create_topics, declare
from runtime.settings import Role, Settings
from tests.conftest import a_configuration
from tests.support.api_client import RESERVATIONS, a_stay, an_api, assert_problem, some_settings
from tests.support.db_faults import renamed, undeclared
from tests.support.room_requests import requests
from tests.support.saga import a_consumer, publish
from tests.support.waiting import eventually

SCHEMAS: dict[Role, Sequence[MetaData]] = {
    "innbox_api": API_SCHEMA,
    "innbox_relay": [outbox.metadata],
    "innbox_rooms": ROOMS_SCHEMA,
    "innbox_results": RESULTS_SCHEMA,
}


@pytest.fixture
def brief(servers: Servers, database_url: str) -> Settings:
    return a_configuration(servers, database_url, behind_pgbouncer=True)


@pytest.mark.parametrize("role", SCHEMAS)
def test_each_process_can_ask_in_its_role_and_keeps_nothing_in_the_session(
    brief: Settings, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pooler between needs it, which may give each statement another session."""
    monkeypatch.setattr(probing, "SLOW_S", 0.0)
    topics = () if role == "innbox_relay" else TOPICS
    url = brief.database_url
    database = DatabaseProbe(brief, url, role, schema=SCHEMAS[role], topics=topics)
    commits = CommitProbe(brief, url, role, Health())
    with closing(database), database.engine.connect() as connection:
        wait = commits.traffic.begin()
        assert commits.ask() is None
        commits.traffic.end(wait)
        for _ in range(2):
            assert database.ask() is None
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


def test_an_old_schema_and_topics_that_are_not_declared_are_told_with_the_remedy(
    brief: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "EVERY_S", 0.0)  # what was just answered is asked again
    probe = DatabaseProbe(
        brief, brief.database_url, "innbox_rooms", schema=ROOMS_SCHEMA, topics=TOPICS
    )
    with closing(probe):
        with renamed(engine):
            assert "rooms.allocation): run `migrate`" in (probe.ask() or "")
        with undeclared(engine):
            assert "run `topics`" in (probe.ask() or "")
        assert probe.ask() is None


def test_an_api_that_was_started_first_waits_for_schema_and_topics(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are told to come again; nothing needs a restart."""
    monkeypatch.setattr(probing, "EVERY_S", 0.1)
    with an_api(empty_database_url) as api:
        me = api.member()
        eventually(lambda: "run `migrate`" in problems(me))
        for answer in (me.post(RESERVATIONS, json=a_stay()), me.get(RESERVATIONS)):
            assert_problem(answer, 503, "unavailable")

        migrate(empty_database_url)
        eventually(lambda: "run `topics`" in problems(me))
        assert_problem(me.post(RESERVATIONS, json=a_stay()), 503, "unavailable")

        declare(some_settings(empty_database_url))
        eventually(lambda: me.get("/healthz/ready").status_code == 200)
        assert me.post(RESERVATIONS, json=a_stay()).status_code == 202


def problems(member: httpx.Client) -> str:
    return str(member.get("/healthz/ready").json()["problems"].get("database", ""))


def test_brokers_that_are_away_or_silent_or_lack_topics_are_told(
    servers: Servers, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = a_configuration(servers, database_url)
    topics = [settings.kafka_prefix + topic for topic in TOPICS]
    probe = KafkaProbe(settings.kafka, topics)
    assert "run `topics`" in (probe.ask() or "")
    create_topics(settings)
    assert eventually(lambda: probe.ask() is None)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and says nothing
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(brokers, "ANSWER_S", 0.5)
        for nobody in (mute, "127.0.0.1:1"):
            with pytest.raises(BrokersAway):
                KafkaProbe({"bootstrap.servers": nobody}, topics).ask()


@pytest.mark.unit
def test_a_probe_that_does_not_answer_is_told_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that hangs can say nothing; it is let go of at the end."""
    monkeypatch.setattr(health, "SILENT_S_MAX", 0.5)
    monkeypatch.setattr(probing, "EVERY_S", 0.02)
    state, first, hung = Health(), AProbe("database"), AProbe("commits")
    with probing.probing(state, [first, hung]):
        eventually(lambda: not state.problems)
        hung.is_answering.clear()
        eventually(lambda: state.problems == {"commits": "silence"})
        eventually(lambda: health.READY.labels("commits")._value.get() == 0)
        assert state.is_silent("commits")
        hung.is_answering.set()
        eventually(lambda: not state.problems)
        eventually(lambda: health.READY.labels("commits")._value.get() == 1)
        first.problem = "it is away"
        eventually(lambda: state.problems == {"database": "it is away"})


class AProbe:
    silence = "silence"

    def __init__(self, part: str) -> None:
        self.part = part
        self.problem: str | None = None
        self.is_answering = Event()
        self.is_answering.set()

    def ask(self) -> str | None:
        self.is_answering.wait()
        return self.problem

    def end(self) -> None:
        self.is_answering.set()

    def close(self) -> None:
        """It has nothing to give back."""


def test_a_loop_that_waits_for_postgres_is_alive_however_often_it_does(
    engine: Engine, settings: Settings
) -> None:
    """A batch that is too slow is cut in two, and again: many transactions, each with its bound."""
    slow = create_engine(engine.url, connect_args={"options": "-c statement_timeout=20ms"})
    beats, seen = count(), list[int]()
    state = Health()
    state.beat = lambda: next(beats)  # type: ignore[method-assign,assignment]

    class Slow(RoomsHandler):
        def apply(self, connection: Connection, _: object) -> dict[UUID, str]:
            seen.append(next(beats))
            connection.execute(text("SELECT pg_sleep(60)"))
            return {}

    publish(settings, requests(1, 60))
    with a_consumer(settings, slow, Slow(), state):
        eventually(lambda: len(seen) >= 6)
    slow.dispose()
    assert all(later > earlier + 1 for earlier, later in pairwise(seen[:6]))


def test_a_loop_that_hangs_is_not_alive_whatever_else_its_process_does(
    engine: Engine, settings: Settings
) -> None:
    """A timed job, say, which uses the same database."""
    goes_on = Event()

    class Hanging(RoomsHandler):
        def apply(self, *_: object) -> dict[UUID, str]:
            goes_on.wait()
            return {}

    def is_live() -> bool:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return state.is_live

    state = Health(beat_s_max=1.0)
    with a_consumer(settings, engine, Hanging(), state):
        publish(settings, requests(1, 1))
        try:
            eventually(lambda: not is_live())
        finally:
            goes_on.set()
        eventually(is_live)
