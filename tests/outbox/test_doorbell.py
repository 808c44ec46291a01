"""The doorbell: after commit, coalesced, from one thread, and a convenience that nothing depends on."""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import enumerate as threads

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import outbox
from outbox import DOORBELL_CHANNEL, Doorbell, install_doorbell
from outbox import doorbell as module
from outbox.reader import listen, wait_for_notify
from tests.support.relays import a_message, append
from tests.support.waiting import eventually

DEADLINE_S = 10.0
# A ring travels in milliseconds; so long a silence means that none was sent.
SILENCE_S = 0.3
SLOW_COMMIT = [
    "CREATE TABLE slow (number int)",
    """
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION dawdle()
    """,
]


@pytest.fixture
def listener(engine: Engine) -> Iterator[Connection]:
    """A connection that hears the outbox's bell."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        listen(connection)
        yield connection


@pytest.fixture
def doorbell(engine: Engine) -> Iterator[Doorbell]:
    doorbell = install_doorbell(engine)
    yield doorbell
    doorbell.close()


@pytest.mark.usefixtures("doorbell")
def test_who_hears_the_bell_sees_the_message(engine: Engine, listener: Connection) -> None:
    """So the ring comes after the commit."""
    for count in range(1, 21):
        append(engine, a_message())
        assert wait_for_notify(listener, DEADLINE_S)
        assert _count(listener) == count


@pytest.mark.usefixtures("doorbell")
def test_the_bell_is_silent_until_the_commit(engine: Engine, listener: Connection) -> None:
    with engine.begin() as connection:
        outbox.append(connection, [a_message()])
        assert not wait_for_notify(listener, SILENCE_S)
    assert wait_for_notify(listener, DEADLINE_S)


@pytest.mark.usefixtures("doorbell")
def test_the_bell_is_silent_while_the_commit_takes_its_time(
    engine: Engine, listener: Connection
) -> None:
    """The commit waits in a deferred trigger; a ring sent when it began would be heard too early."""
    with engine.begin() as connection:
        for statement in SLOW_COMMIT:
            connection.execute(text(statement))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(_append_slowly, engine)
        assert wait_for_notify(listener, DEADLINE_S)
        assert _count(listener) == 1
        slow.result()


@pytest.mark.usefixtures("doorbell")
def test_a_transaction_that_appends_nothing_does_not_ring(
    engine: Engine, listener: Connection
) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_current_xact_id()"))
    assert not wait_for_notify(listener, SILENCE_S)


@pytest.mark.usefixtures("doorbell")
def test_a_rollback_may_ring_and_does_no_harm(engine: Engine, listener: Connection) -> None:
    """A listener looks in vain, and the next ring is as good as ever."""
    with engine.connect() as connection:
        outbox.append(connection, [a_message()])
        connection.rollback()
    wait_for_notify(listener, SILENCE_S)
    assert _count(listener) == 0

    append(engine, a_message())
    assert wait_for_notify(listener, DEADLINE_S)
    assert _count(listener) == 1


@pytest.mark.usefixtures("doorbell")
def test_a_session_of_the_orm_rings(engine: Engine, listener: Connection) -> None:
    with Session(engine) as session, session.begin():
        outbox.append(session.connection(), [a_message()])
    assert wait_for_notify(listener, DEADLINE_S)
    assert _count(listener) == 1


def test_an_asynchronous_engine_rings(database_url: str, listener: Connection) -> None:
    """A thread cannot use such an engine's connections, so the bell takes one of its own kind."""

    async def append_twice() -> None:
        engine = create_async_engine(database_url)
        doorbell = install_doorbell(engine.sync_engine)
        async with engine.begin() as connection:
            await connection.run_sync(outbox.append, [a_message()])
        assert await asyncio.to_thread(wait_for_notify, listener, DEADLINE_S)
        async with AsyncSession(engine) as session, session.begin():
            await (await session.connection()).run_sync(outbox.append, [a_message()])
        assert await asyncio.to_thread(wait_for_notify, listener, DEADLINE_S)
        await asyncio.to_thread(doorbell.close)
        await engine.dispose()

    asyncio.run(append_twice())
    assert _count(listener) == 2


def test_many_commits_ring_few_times_and_from_one_thread(engine: Engine, database_url: str) -> None:
    """The first at once, and once for all the others."""
    before = set(threads())
    doorbell = install_doorbell(engine, interval_ms=600_000)
    with _driver_listening(database_url) as connection:
        append(engine, a_message())
        assert len(list(connection.notifies(timeout=DEADLINE_S, stop_after=1))) == 1
        for _ in range(99):
            append(engine, a_message())
        assert [thread.name for thread in set(threads()) - before] == [
            f"doorbell-{DOORBELL_CHANNEL}"
        ]

        doorbell.close()  # it sends what was rung, and does not wait for its interval
        assert len(list(connection.notifies(timeout=DEADLINE_S, stop_after=1))) == 1
        eventually(lambda: not set(threads()) - before)
        assert not list(connection.notifies(timeout=SILENCE_S))


def test_words_reach_the_listener_whole_however_many(engine: Engine, database_url: str) -> None:
    """A payload of Postgres has a limit, so many words come in several."""
    words = {str(10**12 + number) for number in range(2_000)}
    doorbell = Doorbell(engine, DOORBELL_CHANNEL)
    with _driver_listening(database_url) as connection:
        doorbell.ring(words)
        doorbell.close()
        payloads: list[str] = []

        def are_all_there() -> bool:
            payloads.extend(ring.payload for ring in connection.notifies(timeout=SILENCE_S))
            return {word for payload in payloads for word in payload.split(",")} >= words

        eventually(are_all_there)
    assert len(payloads) > 1
    assert {word for payload in payloads for word in payload.split(",")} == words


@pytest.mark.usefixtures("doorbell")
def test_a_bell_whose_connection_was_cut_rings_with_a_new_one(
    engine: Engine, listener: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The very next ring is heard, so there is nothing to say of it."""
    append(engine, a_message())
    assert wait_for_notify(listener, DEADLINE_S)
    cut = listener.execute(
        text("""
            SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
            WHERE query LIKE 'NOTIFY %' AND datname = current_database()
        """)
    )
    assert cut.scalars().all() == [True]

    append(engine, a_message())
    assert wait_for_notify(listener, DEADLINE_S)
    assert caplog.messages == []


def test_a_bell_without_a_database_is_silent_and_recovers(
    engine: Engine,
    listener: Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody who rings is told, and the first ring after the outage is heard.

    The log has a line for the beginning of the outage and one for its end, and no traceback.
    """
    caplog.set_level(logging.DEBUG, "outbox.doorbell")
    monkeypatch.setattr(module, "_PAUSE_AFTER_FAILURE_S", 0.01)
    nowhere = make_url("postgresql+psycopg://127.0.0.1:1/nowhere?connect_timeout=1")
    doorbell = Doorbell(create_engine(nowhere), DOORBELL_CHANNEL)
    tries: list[object] = []
    event.listen(doorbell._engine, "do_connect", lambda *tried: tries.append(tried))
    for count in range(1, 4):
        doorbell.ring()
        eventually(lambda count=count: len(tries) == count)  # type: ignore[misc]
    doorbell._engine = engine
    assert not wait_for_notify(listener, SILENCE_S)

    doorbell.ring()
    assert wait_for_notify(listener, DEADLINE_S)
    doorbell.close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "refused" in caplog.messages[0]
    assert not any("\n" in message for message in caplog.messages)


def test_the_end_is_not_held_up_by_a_database_that_is_away() -> None:
    nowhere = make_url("postgresql+psycopg://127.0.0.1:1/nowhere?connect_timeout=1")
    doorbell = Doorbell(create_engine(nowhere), DOORBELL_CHANNEL)
    doorbell.ring()
    doorbell.close()
    thread = doorbell._thread
    assert thread is not None
    eventually(lambda: not thread.is_alive())


def _append_slowly(engine: Engine) -> None:
    with engine.begin() as connection:
        outbox.append(connection, [a_message()])
        connection.execute(text("INSERT INTO slow VALUES (1)"))


def _count(connection: Connection) -> int:
    found: int = connection.execute(text("SELECT count(*) FROM outbox.message")).scalar_one()
    return found


@contextmanager
def _driver_listening(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection of the driver itself, which tells each notification apart."""
    url = make_url(database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"LISTEN {DOORBELL_CHANNEL}")
        yield connection
