"""A wait for Postgres ends although the server says nothing, and it is known what it may have done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psutil
import pytest
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import OperationalError

from innbox_process import bounds
from innbox_process.bounds import NoAnswer, OutcomeUnknown, traffic_of
from innbox_process.database import (
    be_patient,
    command_engine,
    direct_engine,
    is_outage,
    pooled_engine,
)
from ops.local import Servers
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.waiting import eventually

INSERT = text("INSERT INTO outbox.topic (name, value_bytes_max) VALUES ('new', 1)")
COUNT = text("SELECT count(*) FROM outbox.topic WHERE name = 'new'")


@pytest.fixture
def brief(servers: Servers, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings by which nobody waits for long, and everybody has the rights of their login."""
    monkeypatch.setattr(bounds, "BEYOND_S", 0.5)
    return a_configuration(servers, database_url, statement_timeout_s=0.5, database_roles=False)


@pytest.fixture
def bounded(brief: Settings) -> Iterator[Engine]:
    engine = pooled_engine(brief, brief.database_url, "test", "innbox_api")
    yield engine
    engine.dispose()


@contextmanager
def hanging(connection: Connection) -> Iterator[None]:
    """Stop the server's side of one connection."""
    backend = psutil.Process(connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    backend.suspend()
    try:
        yield
    finally:
        backend.resume()


def test_a_statement_without_an_answer_is_given_up_and_undone(
    bounded: Engine, engine: Engine
) -> None:
    with bounded.connect() as connection:
        connection.execute(INSERT)
        with hanging(connection), pytest.raises(OperationalError) as raised:
            connection.execute(COUNT)
        assert isinstance(raised.value.orig, NoAnswer)
        assert is_outage(raised.value)
        assert connection.invalidated
    with engine.connect() as connection:
        eventually(lambda: connection.scalar(COUNT) == 0)


def test_a_commit_without_an_answer_may_have_been_done(bounded: Engine, engine: Engine) -> None:
    """The server acts on what it was sent, whether or not anybody waits for it."""
    with bounded.connect() as connection:
        connection.execute(INSERT)
        with hanging(connection), pytest.raises(OperationalError) as raised:
            connection.commit()
        assert isinstance(raised.value.orig, OutcomeUnknown)
        assert is_outage(raised.value)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        eventually(lambda: connection.scalar(COUNT) == 1)


def test_a_patient_wait_lasts_as_long_as_the_server_answers_anybody(brief: Settings) -> None:
    """A statement that may take long is not given up for that, but with all others if it must be."""
    engine = direct_engine(brief, brief.database_url, "test", "innbox_relay")
    traffic, done, raised = traffic_of(brief.database_url), Event(), list[Exception]()

    def wait(connection: Connection) -> None:
        try:
            connection.execute(text("SELECT 1"))
        except OperationalError as error:
            raised.append(error)
        done.set()

    with engine.connect() as patient, engine.connect() as other:
        be_patient(patient)
        with hanging(patient):
            waiting = Thread(target=wait, args=[patient])
            waiting.start()
            answer_s = bounds.answer_s_max(brief)
            eventually(lambda: other.scalar(text("SELECT 1")) and traffic.longest_s > 2 * answer_s)
            assert not done.is_set()
            eventually(done.is_set)  # nobody else asks any more
        waiting.join()
    assert [type(error.orig) for error in raised if isinstance(error, OperationalError)] == [
        NoAnswer
    ]


@pytest.mark.parametrize("make", [command_engine, direct_engine, pooled_engine])
def test_options_of_the_address_are_in_force_beside_the_bounds(
    brief: Settings, make: Callable[[Settings, str, str], Engine]
) -> None:
    """An address may name a role, say; but no address takes a bound away."""
    options = {"options": "-c work_mem=7MB -c lock_timeout=0"}
    url = make_url(brief.database_url).update_query_dict(options)
    engine = make(brief, url.render_as_string(hide_password=False), "test")
    with engine.connect() as connection:
        shown = [
            connection.scalar(text(f"SHOW {name}"))
            for name in ("work_mem", "lock_timeout", "statement_timeout")
        ]
    engine.dispose()
    assert shown == ["7MB", "5s", "500ms"]
