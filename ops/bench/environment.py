"""The environment of a benchmark: databases, topics and processes of its own, removed at the end."""

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import count
from multiprocessing import get_context
from os import getpid
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool

import outbox
import outbox.admin
from domain.stay import Stay
from innbox_process.commands import CommandError
from innbox_process.kafka import quiet_admin
from ops.errors import quoted
from ops.migrate import migrate
from ops.supervisor import Child, Supervisor, children_of
from runtime.settings import RelayMode, Settings

READY_S = 60.0

_numbers = count(1)


@contextmanager
def scratch(settings: Settings) -> Iterator[Settings]:
    """The same settings, but for a migrated database and a prefix of the block's own.

    The topics are for the block to create; it may choose longer prefixes for more of them.
    """
    number = next(_numbers)
    prefix = f"{settings.kafka_prefix}{number}-"
    with _scratch_database(settings.database_url, f"innbox_bench_{getpid()}_{number}") as url:
        migrate(url)
        make_partitions(url, datetime.now(UTC).date())
        of_database = dict.fromkeys(
            ("database_url", "reservations_database_url", "rooms_database_url"), url
        )
        try:
            yield settings.model_copy(update={**of_database, "kafka_prefix": prefix})
        finally:
            _delete_topics(settings, prefix)


def make_partitions(url: str, since: date) -> None:
    """Make those from a day until a week from now, as housekeeping would."""
    days_ahead = (datetime.now(UTC).date() - since).days + 7
    with create_engine(url, poolclass=NullPool).begin() as connection:
        outbox.admin.ensure_partitions(connection, since, days_ahead=days_ahead)


@contextmanager
def session(settings: Settings) -> Iterator[Connection]:
    """A connection in autocommit without any of the bounds that an application's have."""
    engine = create_engine(settings.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


@contextmanager
def a_relay(settings: Settings, logs: Path, *, mode: RelayMode | None = None) -> Iterator[None]:
    """A relay as it is deployed, in a process of its own, that owns its shard."""
    (relay,) = [child for child in children_of(settings, logs) if child.name == "relay"]
    if mode:  # in so many words, since the environment may name the other one
        relay.environment["RELAY_MODE"] = mode
    with processes(settings, [relay]):
        yield


@contextmanager
def processes(settings: Settings, children: list[Child]) -> Iterator[Supervisor]:
    """Run these for the length of the block, once they are ready.

    Raises `CommandError` if one died on the way: what was measured then is something else.
    """
    with Supervisor(children, stop_s=settings.shutdown_s + 2) as supervisor:
        supervisor.wait_until_ready(READY_S)
        yield supervisor
        for state in supervisor.states():
            if state.restarts:
                raise CommandError(f"{state.name} died while it was measured{quoted(state.log)}")


@contextmanager
def process_pool(size: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for clients, which then share no interpreter with what they are timed by."""
    with ProcessPoolExecutor(size, get_context("spawn"), _leave_interrupts_to_us) as hired:
        yield hired


def a_stay() -> Stay:
    """A stay like most: three nights."""
    return Stay(date(2030, 1, 10), date(2030, 1, 13))


def _delete_topics(settings: Settings, prefix: str) -> None:
    admin = quiet_admin(settings.kafka)
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for deletion in admin.delete_topics(names).values() if names else ():
        deletion.result(10)


def _leave_interrupts_to_us() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _scratch_database(url: str, name: str) -> Iterator[str]:
    admin = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
