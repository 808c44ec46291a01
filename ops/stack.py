"""The whole of innbox on one machine: servers, schema, topics and supervised processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.environment import settings_for
from ops.migrate import migrate
from ops.ports import free_port
from ops.supervisor import Supervisor, children_of
from ops.topics import create_topics
from runtime.settings import Settings

READY_S = 60.0

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
    """Bring everything up for the length of a block.

    Servers named by the environment are used; the others are embedded ones, which end with the block
    unless they ran before.
    """
    with servers(data, say, brokers=brokers):
        data.mkdir(parents=True, exist_ok=True)
        replicas = 3 if brokers == 3 else 1  # noqa: PLR2004 - as many as there are brokers
        settings = settings_for(
            data, api_port=port or free_port(), topic_replication=replicas, **IMPATIENT
        )
        say("Migrating the schema and creating the topics …")
        for url in settings.databases:
            migrate(url)
        create_topics(settings)
        say("Starting the API, the relay and the consumers …")
        children = children_of(settings, data / "logs")
        with Supervisor(children, stop_s=settings.shutdown_s + 2) as supervisor:
            supervisor.wait_until_ready(READY_S)
            yield Running(settings, supervisor, f"http://{settings.host}:{settings.api_port}")


@contextmanager
def servers(data: Path, say: Say, *, brokers: int) -> Iterator[None]:
    """Have servers for the length of a block: the environment's, else embedded ones."""
    parts: list[str] = []
    if not os.environ.get("DATABASE_URL"):
        parts.append("postgres")
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        parts.append("kafka")
    if not parts:
        yield
        return

    from ops import local  # noqa: PLC0415 - an extra, needed only without servers of one's own

    with local.running(data, brokers=brokers, parts=parts, report=say):  # type: ignore[arg-type]
        yield
