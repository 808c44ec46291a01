"""The environment of a benchmark: its own databases, topics and processes, removed at the end."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from itertools import count
from multiprocessing import get_context
from os import getpid
from pathlib import Path
from secrets import token_urlsafe
from threading import Event, Thread
from typing import Any, NamedTuple

from pydantic import SecretStr
from sqlalchemy import Connection, TextClause, create_engine, make_url, text
from sqlalchemy.pool import NullPool

import outbox
import outbox.admin
from innbox_process.commands import CommandError, Report
from innbox_process.kafka import quiet_admin
from ops.errors import quoted
from ops.migrate import migrate
from ops.ports import free_port
from ops.supervisor import Child, Supervisor, children_of
from ops.topics import create_topics
from runtime.settings import RelayMode, Settings

READY_S = WITHIN_S = 60.0

_numbers = count(1)


class Run(NamedTuple):
    """What a benchmark is given: settings with a prefix of its own, a directory, and its progress."""

    settings: Settings
    logs: Path
    report: Report


@contextmanager
def scratch(settings: Settings) -> Iterator[Settings]:
    """Yield the settings with the block's own topics, and its own migrated database."""
    number = next(_numbers)
    name, prefix = f"innbox_bench_{getpid()}_{number}", f"{settings.kafka_prefix}{number}-"
    url = make_url(settings.database_url).set(database=name).render_as_string(hide_password=False)
    urls = dict.fromkeys(("database_url", "reservations_database_url", "rooms_database_url"), url)
    own = settings.model_copy(update={**urls, "kafka_prefix": prefix})
    with ExitStack() as removed:
        execute(settings, text(f"CREATE DATABASE {name}"))
        removed.callback(execute, settings, text(f"DROP DATABASE {name} WITH (FORCE)"))
        migrate(url)
        make_partitions(url, datetime.now(UTC).date())
        removed.callback(_delete_topics, own)
        create_topics(own)
        yield own


def make_partitions(url: str, since: date) -> None:
    """Make the partitions from a day until a week from now, like the partition maintenance."""
    days_ahead = (datetime.now(UTC).date() - since).days + 7
    with create_engine(url, poolclass=NullPool).begin() as connection:
        outbox.admin.ensure_partitions(connection, since, days_ahead=days_ahead)


@contextmanager
def session(settings: Settings) -> Iterator[Connection]:
    """Open a connection in autocommit, without the timeouts of an application's connections."""
    engine = create_engine(settings.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def execute(settings: Settings, statement: TextClause) -> None:
    with session(settings) as connection:
        connection.execute(statement)


@contextmanager
def repeating(step: Callable[[], object]) -> Iterator[None]:
    """Repeat a step in a thread for the length of the block."""
    stop = Event()

    def repeat() -> None:
        while not stop.is_set():
            step()

    thread = Thread(target=repeat, name="bench-repeating")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for_all(missing: Callable[[], int], what: str) -> None:
    """Wait until nothing is missing; raises `CommandError`, which begins with how much still is."""
    ends_at = time.monotonic() + WITHIN_S
    while number := missing():
        if time.monotonic() > ends_at:
            raise CommandError(f"{number} {what} within {WITHIN_S:.0f} s")
        time.sleep(0.05)  # between two tests


@contextmanager
def a_relay(settings: Settings, logs: Path, *, mode: RelayMode | None = None) -> Iterator[None]:
    """Run a relay as it is deployed, in its own process, until it owns its shard."""
    relay = child_of(settings, logs, "relay")
    if mode:  # explicitly, since the environment may name the other mode
        relay.environment["RELAY_MODE"] = mode
    with processes(settings, [relay]):
        yield


def child_of(settings: Settings, logs: Path, name: str) -> Child:
    """Return one of the processes, as it is deployed."""
    (child,) = [child for child in children_of(settings, logs) if child.name == name]
    return child


@contextmanager
def processes(settings: Settings, children: list[Child]) -> Iterator[Supervisor]:
    """Run processes for the length of the block, which begins when they are ready.

    Raises `CommandError` if one died meanwhile: the measurement is not valid then.
    """
    with Supervisor(children, stop_s=settings.shutdown_s + 2) as supervisor:
        supervisor.wait_until_ready(READY_S)
        yield supervisor
        for state in supervisor.states():
            if state.restarts:
                raise CommandError(
                    f"{state.name} died during the measurement; run it again{quoted(state.log)}"
                )


def process_pool(size: int) -> ProcessPoolExecutor:
    """Run clients in their own processes, so that they share no interpreter with the timing."""
    ignored = (signal.SIGINT, signal.SIG_IGN)
    return ProcessPoolExecutor(size, get_context("spawn"), signal.signal, ignored)


def with_api(settings: Settings, **changes: Any) -> Settings:  # noqa: ANN401 - any field's value
    """Return the settings with this run's own key for tokens and port of the API, and changes."""
    own = {
        "environment": "development",
        "jwt_algorithm": "HS256",
        "jwt_key": SecretStr(token_urlsafe(48)),
        "api_port": free_port(settings.host),
    }
    return settings.model_copy(update=own | changes)


def _delete_topics(own: Settings) -> None:
    admin = quiet_admin(own.kafka)
    topics = admin.list_topics(timeout=10).topics
    names = [name for name in topics if name.startswith(own.kafka_prefix)]
    for deletion in admin.delete_topics(names).values() if names else ():
        deletion.result(10)
