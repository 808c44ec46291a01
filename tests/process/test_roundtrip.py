"""A transaction in one round trip: all of it or nothing, and a connection that can be used afterwards."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
import uvloop
from sqlalchemy import Connection, Engine, exc, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from innbox_process.bounds import Traffic
from innbox_process.database import pooled_engine
from runtime.pipeline import PipelinePool, Rows, Statement, roundtrip
from runtime.pipeline.line import Line
from runtime.settings import Settings

MAKE = text("CREATE TABLE noted (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, word text)")
NOTE = text("INSERT INTO noted (id, word) VALUES (CAST(:id AS integer), CAST(:word AS text))")
READ = text("SELECT id, word FROM noted ORDER BY id")
WHICH = text("SELECT CAST(txid_current() AS text)")


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        connection.execute(MAKE)
    with engine.connect() as connection:
        yield connection


def in_one_round_trip(connection: Connection, statements: Sequence[Statement]) -> list[Rows]:
    return asyncio.run(roundtrip.in_one_round_trip(connection, statements, within_s=10))


def note(id_: object, word: str | None = None) -> Statement:
    return NOTE, {"id": id_, "word": word}


def noted(engine: Engine) -> list[tuple[int, str | None]]:
    with engine.connect() as connection:
        return [(row.id, row.word) for row in connection.execute(READ)]


def test_statements_are_one_transaction_and_each_sees_those_before_it(
    connection: Connection, engine: Engine
) -> None:
    for first in (1, 3):  # the second time they are prepared
        rows = in_one_round_trip(
            connection, [(WHICH, {}), note(first, "a"), note(first + 1), (READ, {}), (WHICH, {})]
        )
        assert rows[0] == rows[4]
        assert rows[1] == rows[2] == []
        assert list(rows[3])[-2:] == [(first, "a"), (first + 1, None)]
    assert len(noted(engine)) == 4


def test_a_failure_undoes_all_of_it_and_the_connection_is_good_for_the_next(
    connection: Connection, engine: Engine
) -> None:
    with pytest.raises(DataError, match="integer"):
        in_one_round_trip(connection, [note(1), note("one"), note(2)])
    assert noted(engine) == []

    in_one_round_trip(connection, [note(1), note(2)])
    assert noted(engine) == [(1, None), (2, None)]


def test_a_commit_that_fails_says_why(connection: Connection, engine: Engine) -> None:
    with pytest.raises(IntegrityError, match="noted_pkey"):
        in_one_round_trip(connection, [note(1), note(1)])
    assert noted(engine) == []


def test_a_connection_that_was_lost_is_not_used_again(
    connection: Connection, engine: Engine
) -> None:
    ended = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(OperationalError):
        in_one_round_trip(connection, [note(1), (ended, {}), note(2)])
    assert connection.invalidated
    assert noted(engine) == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_that_was_cut_while_nobody_used_it_is_soon_noticed(
    connection: Connection, engine: Engine, run: Callable[[Any], object]
) -> None:
    backend = psutil.Process(connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    connection.rollback()
    with engine.connect() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend.pid})
    psutil.wait_procs([backend], timeout=10)
    with pytest.raises(OperationalError) as caught:
        run(roundtrip.in_one_round_trip(connection, [(WHICH, {})], within_s=10))
    assert "no answer" not in str(caught.value)


def test_statements_that_the_server_has_forgotten_are_prepared_anew(
    connection: Connection, engine: Engine
) -> None:
    in_one_round_trip(connection, [note(1)])
    connection.execute(text("DEALLOCATE ALL"))
    connection.rollback()
    in_one_round_trip(connection, [(WHICH, {}), note(2), (WHICH, {})])
    assert noted(engine) == [(1, None), (2, None)]


@pytest.mark.usefixtures("connection")
def test_behind_pgbouncer_nothing_is_prepared(settings: Settings) -> None:
    engine = pooled_engine(
        settings.model_copy(update={"behind_pgbouncer": True}), settings.database_url, "test"
    )
    with engine.connect() as other:
        assert in_one_round_trip(other, [note(1, "a"), (READ, {})])[1] == [(1, "a")]
        assert other.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
    engine.dispose()


def test_more_than_a_socket_takes_at_once_is_sent(connection: Connection, engine: Engine) -> None:
    word = "x" * 2_000_000
    in_one_round_trip(connection, [note(number, word) for number in range(3)])
    assert [len(each or "") for _, each in noted(engine)] == [2_000_000] * 3


def test_after_any_other_fault_the_connection_is_given_up(
    connection: Connection, engine: Engine
) -> None:
    with pytest.raises(KeyError):
        in_one_round_trip(connection, [note(1), (NOTE, {})])
    assert connection.invalidated
    assert noted(engine) == []


def test_a_server_that_does_not_answer_is_not_waited_for(connection: Connection) -> None:
    pid = connection.scalar(text("SELECT pg_backend_pid()"))
    connection.rollback()
    backend = psutil.Process(pid)
    backend.suspend()
    try:
        with pytest.raises(OperationalError, match="no answer"):
            asyncio.run(roundtrip.in_one_round_trip(connection, [note(1)], within_s=0.2))
    finally:
        backend.resume()
    assert connection.invalidated


@pytest.mark.unit
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_line_is_watched_from_one_wait_to_the_next_until_the_server_hangs_up(
    run: Callable[[Any], object],
) -> None:
    async def watched() -> None:
        ours, server = socket.socketpair()
        with ours:
            line = Line(ours.fileno())
            with server:
                for word in (b"one", b"two"):
                    server.sendall(word)
                    await line.stirred(is_sent=True)
                    assert ours.recv(10) == word
            async with asyncio.timeout(10):  # else the loop would be told without end
                while line.is_watched:  # noqa: ASYNC110 - the loop itself is looked at
                    await asyncio.sleep(0)
            await line.stirred(is_sent=True)  # who comes next is told as well
            assert ours.recv(10) == b""
            line.close()
            assert not line.is_watched

    run(watched())


# The pool.


def a_pool(engine: Engine, **changes: Any) -> PipelinePool:
    bounds = {"size": 1, "timeout_s": 10.0, "within_s": 10.0} | changes
    return PipelinePool(engine, Traffic(), **bounds)


@pytest.mark.usefixtures("connection")
def test_what_follows_a_commit_is_called_after_it_and_after_no_failure(engine: Engine) -> None:
    seen: list[object] = []

    async def execute() -> None:
        pool = a_pool(engine)
        await pool.execute([note(1, "a")], after_commit=lambda: seen.append(noted(engine)))
        with pytest.raises(IntegrityError):
            await pool.execute([note(1, "b")], after_commit=lambda: seen.append("never"))
        await pool.execute([note(2)])
        pool.close()

    asyncio.run(execute())
    assert seen == [[(1, "a")]]
    assert noted(engine) == [(1, "a"), (2, None)]


@pytest.mark.usefixtures("connection")
def test_a_pool_opens_no_more_connections_than_it_may_and_says_so(engine: Engine) -> None:
    lock = text("SELECT pg_advisory_xact_lock(7)")

    async def execute() -> None:
        pool = a_pool(engine, timeout_s=0.2)
        with engine.begin() as other:
            other.execute(lock)
            first = asyncio.create_task(pool.execute([(lock, {}), note(1)]))
            await asyncio.sleep(0)
            with pytest.raises(
                exc.TimeoutError, match=r"no database connection became free within 0\.2 s"
            ):
                await pool.execute([note(2)])
        await first
        assert await pool.execute([note(3)]) == [[]]
        pool.close()

    asyncio.run(execute())
    assert noted(engine) == [(1, None), (3, None)]


@pytest.mark.usefixtures("connection")
def test_a_check_that_refuses_sends_nothing(engine: Engine) -> None:
    def refuse() -> None:
        raise OperationalError(None, None, RuntimeError("not now"))

    pool = PipelinePool(engine, Traffic(), refuse, size=1, timeout_s=1, within_s=1)
    with pytest.raises(OperationalError, match="not now"):
        asyncio.run(pool.execute([note(1)]))
    assert noted(engine) == []
