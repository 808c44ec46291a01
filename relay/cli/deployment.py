"""What the operators' commands work on: databases with outboxes, by name, and the cluster they go to.

The command line that shows the commands says which ones there are: `innbox-relay` takes one database
from its environment. Nothing is read before a command asks for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeVar

import click
from sqlalchemy import Connection, Engine

from innbox_process.commands import CommandError
from innbox_process.config import FOR_A_PERSON, DatabaseConfig
from innbox_process.database import command_engine, direct_engine
from innbox_process.logs import configure_logs
from relay.config import RelayConfig
from relay.databases import Database

_Found = TypeVar("_Found")


class Deployment(Protocol):
    """The context object of the commands."""

    @property
    def command(self) -> str:
        """What a person types before the name of a command."""

    def databases(self) -> Sequence[Database]:
        """Return the databases; raises `SettingsError` where none is known."""

    def relay_config(self, database: Database, *, asks_kafka: bool = True) -> RelayConfig:
        """Return what a relay of a database is told; raises `SettingsError`.

        A command that does not ask Kafka gets one without a broker, if none is known.
        """


@dataclass(frozen=True, slots=True)
class Where:
    """The databases that a command is for: the one that was named, or every one."""

    deployment: Deployment
    named: str | None

    def each(self) -> list[Database]:
        """Return the one that was named, or else all."""
        known = self.deployment.databases()
        found = [one for one in known if self.named is None or self.named in one.names]
        if not found:
            names = ", ".join(name for one in known for name in one.names)
            raise click.BadParameter(
                f"{self.named!r} is none of them: {names}", param_hint="'--database'"
            )
        return found

    def others(self) -> list[Database]:
        """Return those that the command is not for."""
        return [one for one in self.deployment.databases() if one not in self.each()]

    def one(self) -> Database:
        """Return the only one; raises `CommandError` if there are several and none was named."""
        found = self.each()
        if len(found) > 1:
            names = " or ".join(name for one in found for name in one.names)
            raise CommandError(f"there are several databases: pass --database {names}")
        return found[0]

    def config(self, database: Database, *, asks_kafka: bool = True) -> RelayConfig:
        return self.deployment.relay_config(database, asks_kafka=asks_kafka)

    @contextmanager
    def engine(self, database: Database, *, is_patient: bool = False) -> Iterator[Engine]:
        """An engine for transactions whose waits for locks, and whose statements, are bounded.

        With `is_patient` locks alone: what goes through a whole log, or builds an index of it, takes
        as long as the log is large, and a person may interrupt it. A wait for a lock has no such
        reason, and writers wait behind the command that asks for the lock.
        """
        settings = self.config(database, asks_kafka=False).database
        if is_patient:  # no bound is 0 to Postgres
            settings = DatabaseConfig(
                statement_timeout_s=0, behind_pgbouncer=settings.behind_pgbouncer
            )
        engine = command_engine(settings, database.url, "command")
        try:
            yield engine
        finally:
            engine.dispose()

    def of_each(
        self, find: Callable[[Connection], Iterable[_Found]], *, is_patient: bool = False
    ) -> list[tuple[str, _Found]]:
        """Return what is found in each database, behind the database's name."""
        found = []
        for one in self.each():
            with self.engine(one, is_patient=is_patient) as engine, engine.connect() as connection:
                found += [(one.name, each) for each in find(connection)]
        return found

    @contextmanager
    def session(
        self, database: Database, name: str, *, asks_kafka: bool = True
    ) -> Iterator[tuple[Engine, RelayConfig]]:
        """What a command needs that works as a relay does; its log is for a person.

        The engine is in autocommit, and its connections are the command's to keep.
        """
        configure_logs(FOR_A_PERSON, name)
        config = self.config(database, asks_kafka=asks_kafka)
        engine = direct_engine(config.database, database.url, name)
        try:
            yield engine, config
        finally:
            engine.dispose()

    def typed(self, command: str, database: Database) -> str:
        """Return what a person types to call a command for one of the databases."""
        is_single = len(self.deployment.databases()) == 1
        option = "" if is_single else f" --database {database.names[0]}"
        return f"{self.deployment.command} {command}{option}"


def on_database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option that names a database, and `Where` as its first argument."""

    @wraps(command)
    def called(deployment: Deployment, /, *, database: str | None, **options: Any) -> Any:  # noqa: ANN401
        return command(Where(deployment, database), **options)

    option = click.option(
        "--database",
        "--context",
        "database",
        metavar="NAME",
        help="Which database, where there are several.",
    )
    return option(click.pass_obj(called))
