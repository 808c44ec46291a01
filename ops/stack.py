"""The whole of innbox on one machine: servers, schema, topics and supervised processes."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innbox_process.commands import CommandError
from ops import signals
from ops.environment import embedded_servers, settings_for
from ops.locks import LockHeld, holding, is_held
from ops.ports import free_port, is_free
from ops.supervisor import Supervisor, children_of
from ops.topics import create_topics
from runtime.settings import Settings

READY_S = 60.0
API_URL_FILE = "api.url"
LOCK_FILE = "up.lock"
# A process that tests the lock shares it for an instant; so long is that waited for.
LOCK_WITHIN_S = 0.1

PrintStatus = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A running stack: its settings, its processes, and the API's URL."""

    settings: Settings
    supervisor: Supervisor
    api_url: str


@contextmanager
def running_stack(
    data: Path, print_status: PrintStatus, *, port: int = 0, brokers: int = 1
) -> Iterator[Running]:
    """Run everything for the length of a block, which Ctrl-C, SIGTERM and hang-up end.

    Servers that the environment names are used; the others are embedded ones, which stop with the block
    unless they ran before. Once stopping has begun, further signals are ignored.
    """
    with signals.raising(), only_one(data), servers(data, print_status, brokers=brokers):
        settings = settings_for(data, api_port=port or free_port(), **suggestions(brokers))
        refuse_taken(settings.host, settings.api_port)
        from ops.migrate import migrate  # noqa: PLC0415 - Alembic is slow to import, for every command

        print_status("Migrating the schema and creating the topics …")
        for url in settings.databases:
            migrate(url)
        create_topics(settings)
        print_status("Starting the API, the relay and the consumers …")
        children = children_of(settings, data / "logs")
        with Supervisor(children, stop_s=settings.shutdown_s + 2) as supervisor:
            try:
                supervisor.wait_until_ready(READY_S)
                url = f"http://{settings.host}:{settings.api_port}"
                with published_url(data, url):
                    yield Running(settings, supervisor, url)
            finally:
                signals.ignore_further()


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Be the only process that runs innbox on a data directory; raises `CommandError` otherwise."""
    path = data / LOCK_FILE
    try:
        with holding(path, within_s=LOCK_WITHIN_S):
            (data / API_URL_FILE).unlink(missing_ok=True)  # a killed process may have left it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except LockHeld as held:
        raise CommandError(
            f"{held.holder} already runs innbox on {data}; stop it, or choose another directory "
            "with --data"
        ) from held


@contextmanager
def published_url(data: Path, url: str) -> Iterator[None]:
    """Keep the API's URL in the data directory for the length of a block, for commands to find."""
    path = data / API_URL_FILE
    path.write_text(url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_url(data: Path) -> str | None:
    """Return the URL of the API of this directory's `innbox up`; None if it does not run.

    The URL that a killed process left does not count: another program may listen there by now.
    """
    try:
        is_up = is_held(data / LOCK_FILE)
        return (is_up and (data / API_URL_FILE).read_text()) or None
    except FileNotFoundError:
        return None


def refuse_taken(host: str, port: int) -> None:
    """Raise `CommandError` if the API could not listen there now."""
    try:
        is_taken = not is_free(port, host)
    except OSError as error:
        raise CommandError(f"cannot listen on {host}, port {port}: {error}") from error
    if is_taken:
        raise CommandError(f"port {port} is in use by another program; choose another with --port")


def suggestions(brokers: int) -> dict[str, Any]:
    """Return the settings that suit one machine, without those that the environment sets."""
    # On one machine a crash should be noticed sooner than in a deployment.
    wanted: dict[str, Any] = {"lease_s": 2.0}
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        wanted["topic_replication"] = brokers  # a copy on each
    return {name: value for name, value in wanted.items() if not os.environ.get(name.upper())}


def servers(
    data: Path,
    print_status: PrintStatus,
    *,
    brokers: int,
    postgres_settings: Mapping[str, object] | None = None,
) -> AbstractContextManager[object]:
    """Provide servers for the length of a block: the environment's, else embedded ones.

    `postgres_settings` apply to an embedded Postgres alone.
    """
    named_by = {"postgres": "DATABASE_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS"}
    parts = [part for part, variable in named_by.items() if not os.environ.get(variable)]
    if not parts:
        return nullcontext()
    embedded: AbstractContextManager[object] = embedded_servers().running(
        data, brokers=brokers, parts=parts, postgres_settings=postgres_settings, report=print_status
    )
    return embedded
