"""The whole of innbox on one machine: servers, schema, topics and supervised processes."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import IO, Any

from innbox_process.commands import CommandError
from ops import signals
from ops.environment import embedded_servers, settings_for
from ops.ports import free_port, is_free
from ops.supervisor import Supervisor, children_of
from ops.topics import create_topics
from runtime.settings import Settings

READY_S = 60.0
API_URL_FILE = "api.url"
LOCK_FILE = "up.lock"
# Whoever looks whether the lock is held has it for an instant: a few looks of others are waited for.
LOCK_ATTEMPTS, LOCK_PAUSE_S = 5, 0.02

# A crash on this machine is noticed sooner than a deployment would want to.
IMPATIENT = {"lease_s": 2.0}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that is up: its settings, its processes, and where the API is."""

    settings: Settings
    supervisor: Supervisor
    api_url: str


@contextmanager
def running_stack(data: Path, say: Say, *, port: int = 0, brokers: int = 1) -> Iterator[Running]:
    """Bring everything up for the length of a block, which Ctrl-C, SIGTERM and hang-up end.

    Servers named by the environment are used; the others are embedded ones, which end with the block
    unless they ran before. Once the end has begun, further requests to end change nothing.
    """
    with signals.raising(), only_one(data), servers(data, say, brokers=brokers):
        settings = settings_for(data, api_port=port or free_port(), **suggestions(brokers))
        refuse_taken(settings.host, settings.api_port)
        from ops.migrate import migrate  # noqa: PLC0415 - Alembic is slow to import, for every command

        say("Migrating the schema and creating the topics …")
        for url in settings.databases:
            migrate(url)
        create_topics(settings)
        say("Starting the API, the relay and the consumers …")
        children = children_of(settings, data / "logs")
        with Supervisor(children, stop_s=settings.shutdown_s + 2) as supervisor:
            try:
                supervisor.wait_until_ready(READY_S)
                url = f"http://{settings.host}:{settings.api_port}"
                with told(data, url):
                    yield Running(settings, supervisor, url)
            finally:
                signals.hear_no_more()


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Be the only one that runs processes on a data directory; raises `CommandError` otherwise.

    The lock is the kernel's, so it goes with its holder, however that one ends.
    """
    path = data / LOCK_FILE
    data.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        # Whoever held it until a moment ago may have removed it: then this lock guards nothing.
        if not (_locked(file) and _is_there(path, file)):
            raise CommandError(
                f"process {_holder(path)} runs innbox on {data} already; stop it, or choose "
                "another directory with --data"
            )
        (data / API_URL_FILE).unlink(missing_ok=True)  # left by one that was killed
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def told(data: Path, url: str) -> Iterator[None]:
    """Leave the API's URL in the data directory for the length of a block, for commands to find."""
    path = data / API_URL_FILE
    path.write_text(url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_url(data: Path) -> str | None:
    """Return where the API of this directory's `innbox up` is; None if it does not run.

    What a killed one left is not believed: anybody may listen there by now.
    """
    try:
        is_up = _is_locked(data / LOCK_FILE)
        return (is_up and (data / API_URL_FILE).read_text()) or None
    except FileNotFoundError:
        return None


def refuse_taken(host: str, port: int) -> None:
    """Raise `CommandError` if nobody could listen there now, as the API will."""
    try:
        is_taken = not is_free(port, host)
    except OSError as error:
        raise CommandError(f"cannot listen on {host}, port {port}: {error}") from error
    if is_taken:
        raise CommandError(f"port {port} is taken by another program; choose one with --port")


def suggestions(brokers: int) -> dict[str, Any]:
    """Return the settings that suit one machine, but for those that the environment has."""
    wanted: dict[str, Any] = dict(IMPATIENT)
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        wanted["topic_replication"] = 3 if brokers == 3 else 1  # noqa: PLR2004 - one on each broker
    return {name: value for name, value in wanted.items() if not os.environ.get(name.upper())}


@contextmanager
def servers(
    data: Path,
    say: Say,
    *,
    brokers: int,
    postgres_settings: Mapping[str, object] | None = None,
) -> Iterator[None]:
    """Have servers for the length of a block: the environment's, else embedded ones.

    `postgres_settings` are for an embedded Postgres alone.
    """
    parts: list[str] = []
    if not os.environ.get("DATABASE_URL"):
        parts.append("postgres")
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        parts.append("kafka")
    if not parts:
        yield
        return

    with embedded_servers().running(
        data,
        brokers=brokers,
        parts=parts,
        postgres_settings=postgres_settings,
        report=say,
    ):
        yield


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _locked(file: IO[str]) -> bool:
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            sleep(LOCK_PAUSE_S)
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _is_there(path: Path, file: IO[str]) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "(just starting)"
    except FileNotFoundError:
        return "(just ending)"
