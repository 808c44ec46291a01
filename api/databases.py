"""The API's databases: writes and reads have pools of their own.

A commit may wait for a standby that is away, and a change for a lock. Readers do not notice: they use no
connection of the writers. While commits are not confirmed no further one is begun.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

import outbox
from api.identity.row_security import install_row_security
from domain.messages import ROOM_CANCEL, ROOM_RESERVE
from domain.reservations import tables as reservations_tables
from domain.rooms import tables as rooms_tables
from innbox_process.bounds import Traffic, traffic_of
from innbox_process.database import READ_ONLY, pooled_engine
from innbox_process.health import Health
from innbox_process.probing import CommitProbe, DatabaseProbe, Probe, probing, refuse_unconfirmed
from runtime.settings import Role, Settings

ROLE: Role = "innbox_api"
SCHEMA = (reservations_tables.metadata, rooms_tables.metadata, outbox.metadata)


@dataclass(frozen=True, slots=True)
class Database:
    """The two pools of one database, and what is known of it."""

    writing: Engine
    reading: Engine
    traffic: Traffic
    commits: CommitProbe

    def dispose(self) -> None:
        self.writing.dispose()
        self.reading.dispose()


@dataclass(frozen=True, slots=True)
class Databases:
    """Those of the two contexts: one and the same where they share it."""

    reservations: Database
    rooms: Database
    probed: Sequence[tuple[Health, Sequence[Probe]]]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Probe the databases for the length of a block, and then close their connections."""
        with ExitStack() as stack:
            stack.callback(self.reservations.dispose)
            stack.callback(self.rooms.dispose)
            for health, probes in self.probed:
                stack.enter_context(probing(health, probes))
            yield


def databases_of(settings: Settings, health: Health) -> Databases:
    """Connects to nothing yet."""
    url, rooms_url = settings.reservations_database_url, settings.rooms_database_url
    topics = (ROOM_RESERVE, ROOM_CANCEL)
    reservations = rooms = _database(settings, url, "api", health)
    probe = DatabaseProbe(settings, url, ROLE, schema=SCHEMA, topics=topics)
    probed: list[tuple[Health, list[Probe]]] = [(health, [probe, reservations.commits])]
    if rooms_url != url:
        # While it is away the routes of rooms answer 503 and reservations go on: readiness does not
        # depend on it.
        rooms = _database(settings, rooms_url, "api-rooms", apart := Health())
        probed.append((apart, [rooms.commits]))
    return Databases(reservations, rooms, probed)


def _database(settings: Settings, url: str, name: str, health: Health) -> Database:
    writing, reading = (_engine(settings, url, name) for _ in range(2))
    commits = CommitProbe(settings, url, ROLE, health)
    refuse_unconfirmed(writing, commits.check)
    # A read alone needs no BEGIN and no ROLLBACK around it: two round trips less.
    reading = reading.execution_options(isolation_level="AUTOCOMMIT")
    return Database(writing, reading, traffic_of(url), commits)


def _engine(settings: Settings, url: str, name: str) -> Engine:
    engine = pooled_engine(settings, url, name, ROLE)
    install_row_security(engine)

    # Another server has taken over: connections to this one are useless from now on.
    @event.listens_for(engine, "handle_error")
    def connect_anew(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True

    return engine
