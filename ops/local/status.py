"""The state of the servers of a data directory, from the system's processes; takes no lock."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from ops.local import jars, postgres
from ops.local.node import bootstrap_servers, nodes
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
    rows = []
    if port := state.postgres_port:
        server = Postgres.within(data)
        files = (server.data, server.log)
        url, version = postgres.url(port), postgres.version()
        rows.append(_status(POSTGRES, server.process(), port, url, version, *files))
    for node in nodes(data, state):
        files = (node.records, node.log)
        url, version = bootstrap_servers([node.broker]), jars.kafka_version()
        rows.append(_status(node.home.name, node.process(), node.broker.port, url, version, *files))
    return rows


def _status(
    name: str, process: psutil.Process | None, port: int, url: str, version: str, *files: Path
) -> ServerStatus:
    pid = process.pid if process else None
    return ServerStatus(name, pid, port, url if process else None, version, *files)
