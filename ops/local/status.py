"""The state of the servers of a data directory, from the system's processes; takes no lock."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops.local import jars, postgres
from ops.local.node import Node, bootstrap_servers, nodes
from ops.local.postgres import Postgres
from ops.local.state import State, load

POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server's state now; the process id and the URL are None unless it runs."""

    name: str
    pid: int | None
    port: int
    url: str | None
    version: str
    data: Path
    log: Path

    @property
    def state(self) -> Literal["running", "stopped"]:
        return "stopped" if self.pid is None else "running"


def status(data: Path) -> list[ServerStatus]:
    """Return one row for each server that was ever started here."""
    data = data.resolve()
    state = load(data) or State()
    rows = [_kafka_status(node) for node in nodes(data, state)]
    return [_postgres_status(data, state), *rows] if state.postgres_port else rows


def _postgres_status(data: Path, state: State) -> ServerStatus:
    server = Postgres.within(data)
    process = server.process()
    return ServerStatus(
        name=POSTGRES,
        pid=process.pid if process else None,
        port=state.postgres_port,
        url=postgres.url(state.postgres_port) if process else None,
        version=postgres.version(),
        data=server.data,
        log=server.log,
    )


def _kafka_status(node: Node) -> ServerStatus:
    process = node.process()
    return ServerStatus(
        name=node.home.name,
        pid=process.pid if process else None,
        port=node.broker.port,
        url=bootstrap_servers([node.broker]) if process else None,
        version=jars.kafka_version(),
        data=node.records,
        log=node.log,
    )
