"""Engines: how every process talks to Postgres.

READ COMMITTED, explicit bounds on every wait, UTC. The pool never waits for long: an exhausted pool is
an overload that the caller should hear of.
"""

from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from runtime.settings import Settings

LOCK_TIMEOUT_S = 5

# Classes of SQLSTATE that say that the server cannot work: connection, resources, operator, system.
OUTAGES = frozenset({"08", "53", "57", "58"})
TIMED_OUT = "57014"  # of class 57, but the statement's own fault
READ_ONLY = "25006"  # a server that another one has taken over from


def pooled_engine(settings: Settings, url: str, name: str) -> Engine:
    """Return an engine for short transactions; `name` shows in pg_stat_activity."""
    return create_engine(
        url,
        hide_parameters=True,  # they are people's data, and errors are logged
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_s,
        pool_use_lifo=True,  # few busy connections keep their prepared statements warm
        pool_pre_ping=False,  # a broken connection fails one request; a ping would cost all of them
        connect_args=_connect_args(settings, name),
    )


def direct_engine(settings: Settings, url: str, name: str) -> Engine:
    """Return an engine in autocommit whose connections are the caller's to keep (LISTEN, leases)."""
    return create_engine(
        url,
        hide_parameters=True,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        # Never through pgbouncer, which knows neither LISTEN nor leases: statements stay prepared.
        connect_args=_connect_args(settings, name) | {"prepare_threshold": 3},
    )


def _connect_args(settings: Settings, name: str) -> dict[str, Any]:
    statement_timeout_ms = int(settings.statement_timeout_s * 1000)
    options = {
        "TimeZone": "UTC",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "statement_timeout": f"{statement_timeout_ms}ms",
        "idle_in_transaction_session_timeout": "60s",
    }
    return {
        "application_name": f"innbox-{name}",
        "connect_timeout": 5,
        "prepare_threshold": None if settings.behind_pgbouncer else 3,
        "options": " ".join(f"-c {key}={value}" for key, value in options.items()),
        # A peer that vanished without a word is noticed within half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def is_outage(error: BaseException) -> bool:
    """Tell a database that is away from a statement that is wrong."""
    if isinstance(error, PoolTimeout):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    if state is None:  # the connection itself failed
        return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
    return state == READ_ONLY or (state[:2] in OUTAGES and state != TIMED_OUT)


def is_cancelled(error: BaseException) -> bool:
    """Tell a statement that was cut short, by its time limit or by a person, and may be tried again."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) == TIMED_OUT


def is_conflict(error: BaseException) -> bool:
    """Tell a transaction that lost against another one, and may simply be run again."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None) or ""
    return state[:2] == "40" or state == "55P03"
