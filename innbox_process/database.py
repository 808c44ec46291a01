"""Engines: how every process talks to Postgres.

READ COMMITTED, explicit bounds on every wait, UTC. The pool never waits for long: an exhausted pool is
an overload that the caller should hear of. The bounds are the server's and, in the processes, the
client's as well (`innbox_process.bounds`), since a server that hangs keeps none.

A process may name a role, which may do what its statements need. It takes the role as it connects, and a
connection that is not in the role is not used.
"""

import re
from collections.abc import Mapping
from threading import Event
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from innbox_process.bounds import BoundedConnection, answer_s_max, traffic_of
from innbox_process.config import DatabaseSettings

LOCK_TIMEOUT_S = 5
_AUTOCOMMIT: dict[str, Any] = {"poolclass": NullPool, "isolation_level": "AUTOCOMMIT"}

# Classes of SQLSTATE that say that the server cannot work: connection, resources, operator, system.
OUTAGES = frozenset({"08", "53", "57", "58"})
TIMED_OUT = "57014"  # of class 57, but the statement's own fault
READ_ONLY = "25006"  # a server that another one has taken over from
LOCK_NOT_AVAILABLE = "55P03"
# No such schema, table, column or function: our statements are tested, so the schema is not there yet.
NOT_MIGRATED = frozenset({"3F000", "42P01", "42703", "42883"})

# One after a backslash is a part of a value.
_BLANKS = re.compile(r"(?<!\\)\s+")


class RoleNotTaken(psycopg.OperationalError):
    """The login may not take the process' role; an operator can put that right while it waits."""

    def __init__(self, role: str, login: str | None, cause: str) -> None:
        super().__init__(
            f"not in the role {role} ({cause}): run `migrate` if there is no such role, then "
            f"GRANT {role} TO {login or 'the login'}; "
            f"through pgbouncer also ALTER ROLE {login or 'the login'} SET role = '{role}'"
        )


def pooled_engine(
    settings: DatabaseSettings,
    url: str,
    name: str,
    role: str | None = None,
    *,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Engine:
    """Return an engine for short transactions; `name` shows in pg_stat_activity.

    Without a role it has the login's own rights: that is for operators. `options` are further parameters
    of the session.
    """
    return _engine(
        settings,
        url,
        role,
        _connect_args(settings, name, role, options),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_s,
        pool_use_lifo=True,  # few busy connections keep their prepared statements warm
        pool_pre_ping=False,  # a broken connection fails one request; a ping would cost all of them
    )


def direct_engine(
    settings: DatabaseSettings, url: str, name: str, role: str | None = None
) -> Engine:
    """Return an engine in autocommit whose connections are the caller's to keep (LISTEN, leases).

    Without a role it has the login's own rights: that is for operators.
    """
    # Never through pgbouncer, which knows neither LISTEN nor leases: statements stay prepared.
    connect_args = _connect_args(settings, name, role) | {"prepare_threshold": 3}
    return _engine(settings, url, role, connect_args, **_AUTOCOMMIT)


def command_engine(settings: DatabaseSettings, url: str, name: str) -> Engine:
    """Return an engine for an operator's transactions, with the login's own rights.

    Each has a new connection: a server may cut one that is idle while a person reads a question.
    """
    return _engine(settings, url, None, _connect_args(settings, name, None), poolclass=NullPool)


def probing_engine(
    settings: DatabaseSettings, url: str, role: str, *, answer_s: float, ended: Event
) -> Engine:
    """Return an engine in autocommit to ask after the database with; the event ends its waits."""
    connect_args = _connect_args(settings, "probe", role) | {"connect_timeout": 3}
    return _engine(settings, url, role, connect_args, answer_s, ended, **_AUTOCOMMIT)


def be_patient(connection: Connection) -> None:
    """Let statements of this connection take long, for as long as the server answers others.

    For what has no `statement_timeout`, or a long one.
    """
    driver = connection.connection.driver_connection
    if isinstance(driver, BoundedConnection):
        driver.is_patient = True


def url_in_role(settings: DatabaseSettings, url: str, role: str) -> str:
    """Return the URL for a connection without an engine, with the role in it.

    Options that it has already stay. There is no blank among them, which libpq and SQLAlchemy write
    differently: Postgres takes a tab for one.
    """
    if not (role and settings.database_roles):
        return url
    given = make_url(url)
    options = [*given.normalized_query.get("options", ()), f"--role={role}"]
    joined = _BLANKS.sub("\t", " ".join(options))
    return given.update_query_dict({"options": joined}).render_as_string(hide_password=False)


def _engine(
    settings: DatabaseSettings,
    url: str,
    role: str | None,
    connect_args: dict[str, Any],
    answer_s: float | None = None,
    ended: Event | None = None,
    **options: Any,  # noqa: ANN401 - what `create_engine` takes
) -> Engine:
    """Return an engine whose connections are, in a process, bounded, and in its role or refused."""
    # Without this SQLAlchemy would drop the URL's own; of two that set the same the last one counts.
    own = make_url(url).normalized_query.get("options", ())
    connect_args["options"] = " ".join([*own, connect_args["options"]])
    # Parameters are people's data, and errors are logged.
    engine = create_engine(url, hide_parameters=True, connect_args=connect_args, **options)
    if role is None:  # an operator's command, which may take its time
        return engine

    @event.listens_for(engine, "do_connect")
    def connect(
        _dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        connection = _connected(role, arguments, options)
        connection.traffic = traffic_of(url)
        connection.answer_s = answer_s or answer_s_max(settings)
        connection.ended = ended
        try:
            if role and settings.database_roles:
                _check_role(connection, role, options.get("user"))
        except BaseException:
            connection.close()  # nobody else knows of it yet
            raise
        return connection

    return engine


def _connected(role: str, arguments: list[Any], options: dict[str, Any]) -> BoundedConnection:
    login = options.get("user")
    try:
        return BoundedConnection.connect(*arguments, **options)
    except psycopg.OperationalError as error:
        # The server has no code for it here. It quotes the role's name in whatever language.
        if role and f'"{role}"' in str(error) and login != role:
            raise RoleNotTaken(role, login, str(error).strip().rpartition("\n")[2]) from error
        raise


def _check_role(connection: psycopg.Connection[Any], role: str, login: str | None) -> None:
    """A pooler in between may pass the option over, and the login's rights would be in force."""
    connection.autocommit = True
    [(current,)] = connection.execute("SELECT current_user").fetchall()
    connection.autocommit = False
    if current != role:
        raise RoleNotTaken(role, login, f"but in {current}")


def _connect_args(
    settings: DatabaseSettings,
    name: str,
    role: str | None,
    further: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    statement_timeout_ms = int(settings.statement_timeout_s * 1000)
    options = {
        **further,
        "TimeZone": "UTC",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "statement_timeout": f"{statement_timeout_ms}ms",
        "idle_in_transaction_session_timeout": "60s",
    }
    if role is None:
        # Where row-level security would hide rows from an operator, Postgres says so.
        options["row_security"] = "off"
    elif role and settings.database_roles:
        options["role"] = role
    return {
        "application_name": f"innbox-{name}",
        "connect_timeout": 5,
        "prepare_threshold": None if settings.behind_pgbouncer else 3,
        "options": " ".join(f"-c {key}={value}" for key, value in options.items()),
        # A peer that vanished without a word is noticed within half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # Keepalives are not sent while data waits to be acknowledged.
        "tcp_user_timeout": 25_000,
    }


def is_outage(error: BaseException) -> bool:
    """Tell a database that is away from a statement that is wrong."""
    if isinstance(error, PoolTimeout):
        return True
    cause, state = _cause(error), sqlstate(error)
    if state is None:  # the connection itself failed
        return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
    return state == READ_ONLY or (state[:2] in OUTAGES and state != TIMED_OUT)


def is_not_migrated(error: BaseException) -> bool:
    """Tell a schema that is not there yet, or an old one, which `migrate` puts right."""
    return sqlstate(error) in NOT_MIGRATED


def is_cancelled(error: BaseException) -> bool:
    """Tell a statement that was cut short, by its time limit or by a person, and may be tried again."""
    return sqlstate(error) == TIMED_OUT


def is_conflict(error: BaseException) -> bool:
    """Tell a transaction that lost against another one, and may simply be run again."""
    state = sqlstate(error) or ""
    return state[:2] == "40" or state == LOCK_NOT_AVAILABLE


def advice(error: BaseException) -> str | None:
    """Say what to do about an id that is taken, which no retry puts right; None for any other error."""
    if not is_taken_id(error):
        return None
    return "if a restore has left sequences behind, `outbox rebase` advances them"


def is_taken_id(error: BaseException) -> bool:
    """Tell a primary key that there is already, as a sequence that is behind its table gives one."""
    cause = _cause(error)
    if not isinstance(cause, UniqueViolation):
        return False
    return (cause.diag.constraint_name or "").startswith("pk_")


def sqlstate(error: BaseException) -> str | None:
    """Return Postgres' code of an error, SQLAlchemy's or the driver's; None where it gave none."""
    return getattr(_cause(error), "sqlstate", None)


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error
