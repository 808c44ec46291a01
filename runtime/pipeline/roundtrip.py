"""A transaction in one round trip: its statements go out together, and come back together.

Postgres takes statements that follow one another without a pause for one transaction, which it commits at
their end by itself. So there is neither a BEGIN nor a COMMIT, and no client that stalls can keep a lock.

Only the event loop waits for the database, by the socket. A thread for each transaction would
cost more than the transaction does: it is woken, takes the interpreter's lock from the loop, and gives it
back, several times. psycopg's own pipeline looks after the socket at each statement, which costs five
times as much; what is called here is its layer below, `psycopg.pq`.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast
from zlib import crc32

import psycopg
from psycopg import abc, errors, pq
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from sqlalchemy import Connection, TextClause, exc

from innbox_process.bounds import OutcomeUnknown
from innbox_process.database import READ_ONLY
from runtime.pipeline.line import Line

Statement = tuple[TextClause, Mapping[str, object]]
Rows = Sequence[tuple[Any, ...]]

_PREPARED = "innbox.prepared"
_LINE = "innbox.line"
_BIND = re.compile(r"(?<![:\w]):(\w+)(?!:)")
_DONE = {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}


async def in_one_round_trip(
    connection: Connection, statements: Sequence[Statement], *, within_s: float = 15.0
) -> list[Rows]:
    """Run statements as one transaction and commit it; returns the rows of each.

    On a connection that is in no transaction, and nobody else's meanwhile. All of it or nothing; after an
    error of the connection itself, no answer within `within_s` seconds (give it more than a statement
    may take), or being cancelled, nobody knows which, and the connection is invalid. Raises what
    SQLAlchemy would, around `OutcomeUnknown` if nobody knows. Postgres does not guess the types of
    binds: the statements name them (`CAST`).
    """
    driver = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)
    try:
        assert driver.info.transaction_status == pq.TransactionStatus.IDLE, "a transaction is open"
        prepared: set[bytes] = connection.info.setdefault(_PREPARED, set())
        line = _line(connection, driver)
        try:
            results = await _exchanged(driver, line, prepared, statements, within_s)
        except errors.InvalidSqlStatementName:
            # psycopg has the server forget all statements after a rollback; nothing was done yet.
            results = await _exchanged(driver, line, prepared, statements, within_s)
    except psycopg.Error as error:
        raise _as_sqlalchemys(connection, driver, error) from error
    except BaseException:  # whatever it was, half a conversation is of no use to the next
        _give_up(connection, driver)
        raise
    transformer = Transformer(driver)
    return [_rows(transformer, result) for result in results]


def leave(connection: Connection) -> None:
    """Watch the connection's socket no more, before somebody else closes it or waits for it."""
    line: Line | None = connection.info.pop(_LINE, None)
    if line is not None:
        line.close()


def _line(connection: Connection, driver: "psycopg.Connection[Any]") -> Line:
    found: Line | None = connection.info.get(_LINE)
    if found is None or found.loop is not asyncio.get_running_loop():
        found = connection.info[_LINE] = Line(driver.pgconn.socket)
    return found


async def _exchanged(
    driver: "psycopg.Connection[Any]",
    line: Line,
    prepared: set[bytes],
    statements: Sequence[Statement],
    within_s: float,
) -> list[pq.abc.PGresult]:
    libpq = driver.pgconn
    libpq.enter_pipeline_mode()
    known = set(prepared)
    preparing = [name for one in statements for name in _sent(driver, known, one)]
    libpq.pipeline_sync()
    answers = await _answers(line, libpq, within_s)
    libpq.exit_pipeline_mode()
    # Not strictly: a commit that fails is one answer more, behind all others.
    answered = list(zip(answers, preparing, strict=False))
    # After a failure the others are only told that they were not tried: the first one says why.
    failed = next((answer for answer in answers if answer.status not in _DONE), None)
    error = errors.error_from_result(failed, encoding=driver.info.encoding) if failed else None
    if isinstance(error, errors.InvalidSqlStatementName):
        prepared.clear()
    # What is prepared now stays so, also if the transaction has failed.
    prepared.update(name for answer, name in answered if name and answer.status in _DONE)
    if error:
        raise error
    return [answer for answer, name in answered if not name]


def _sent(
    driver: "psycopg.Connection[Any]", known: set[bytes], statement: Statement
) -> Iterator[bytes | None]:
    """Send one, prepared if it is not yet known; yields what each answer that will come prepares."""
    clause, bound = statement
    sql, name, binds = _translated(clause)
    values = [bound[bind] for bind in binds]
    given = [one if one is None or isinstance(one, bytes) else str(one).encode() for one in values]
    formats = [Format.BINARY if isinstance(one, bytes) else Format.TEXT for one in values]
    if driver.prepare_threshold is None:  # behind pgbouncer nothing stays prepared
        driver.pgconn.send_query_params(sql, given, param_formats=formats)
    else:
        if name not in known:
            known.add(name)
            driver.pgconn.send_prepare(name, sql)
            yield name
        driver.pgconn.send_query_prepared(name, given, formats)
    yield None


async def _answers(line: Line, libpq: pq.abc.PGconn, within_s: float) -> list[pq.abc.PGresult]:
    """Wait for all that was sent.

    The bound is for what the server's own, `statement_timeout`, does not cover: a commit that waits for a
    replica, a server that is stopped, a network that swallows everything.
    """
    found: list[pq.abc.PGresult] = []
    ends_at = line.loop.time() + within_s
    is_sent = not libpq.flush()  # else it is more than the socket takes at once
    # If the connection breaks while sending, only libpq tells: the socket reports nothing more.
    while not _is_all_read(libpq, found):
        if line.loop.time() > ends_at:
            raise psycopg.OperationalError(f"no answer within {within_s:g} s")
        await line.stirred(is_sent=is_sent)
        libpq.consume_input()
        is_sent = not libpq.flush()
    return found


def _is_all_read(libpq: pq.abc.PGconn, found: list[pq.abc.PGresult]) -> bool:
    """Take what has come; tells whether that was the end. Raises if no more can come."""
    while not libpq.is_busy():
        result = libpq.get_result()
        if result is None:  # the end of one statement's answers, or of them all
            if libpq.status != pq.ConnStatus.OK:
                break
        elif result.status == ExecStatus.PIPELINE_SYNC:
            return True
        else:
            found.append(result)
    if libpq.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError("the connection was lost")
    return False


@cache
def _translated(clause: TextClause) -> tuple[bytes, bytes, tuple[str, ...]]:
    """Return a statement with numbered binds, its name on the server, and the binds in their order."""
    binds = tuple(dict.fromkeys(_BIND.findall(clause.text)))
    sql = _BIND.sub(lambda found: f"${binds.index(found[1]) + 1}", clause.text).encode()
    return sql, b"innbox_%08x" % crc32(sql), binds


def _rows(transformer: abc.Transformer, result: pq.abc.PGresult) -> Rows:
    if not result.ntuples:
        return []
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def _as_sqlalchemys(
    connection: Connection, driver: "psycopg.Connection[Any]", error: psycopg.Error
) -> BaseException:
    """Return the error as SQLAlchemy has it, and leave a connection that is of no more use."""
    libpq = driver.pgconn
    is_whole = libpq.status == pq.ConnStatus.OK and libpq.pipeline_status == pq.PipelineStatus.OFF
    if not is_whole or error.sqlstate == READ_ONLY:
        _give_up(connection, driver)
    if not is_whole:  # the commit was on its way as well
        error = OutcomeUnknown(str(error))
    return exc.DBAPIError.instance(
        None, None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
    )


def _give_up(connection: Connection, driver: "psycopg.Connection[Any]") -> None:
    leave(connection)
    driver.close()  # a connection that was taken from its pool is closed by nobody else
    connection.invalidate()
