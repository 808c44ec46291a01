"""Real servers without Docker: Postgres and Kafka (one broker or three) from package registries.

All their files are in one data directory:

    servers = start(Path(".innbox"))            # they run on when this process ends
    with running(Path(".innbox")) as servers:   # they stop with the block

A first start decides the ports, the cluster's identity and its size, and later starts keep them. Every
change of a data directory is made under its lock, by one process at a time; reading takes no lock. The
next call completes an interrupted start, stop or download; no process is signalled that is not a server
of that directory; only files made here are erased.
"""

import base64
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import psutil
from msgspec.structs import replace

from ops import signals
from ops.errors import LocalError
from ops.local import jars, kafka, postgres
from ops.local.kafka import BrokerSettings, bootstrap_servers, new_brokers, nodes
from ops.local.postgres import Postgres
from ops.local.state import LOCK_FILE, Report, State, erase, exclusive, load, refuse_foreign, save
from ops.ports import claim, free_port

__all__ = [
    "BrokerSettings",
    "LocalError",
    "Part",
    "Servers",
    "reset",
    "running",
    "start",
    "status",
    "stop",
]

Part = Literal["postgres", "kafka"]
CLUSTER_SIZES = (1, 3)
POSTGRES = "postgres"
ALL_PARTS: tuple[Part, ...] = ("postgres", "kafka")


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers' addresses; empty for a part that was not requested."""

    database_url: str
    kafka_bootstrap_servers: str


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


class StartOptions(TypedDict, total=False):
    """What `start` may be told of the servers."""

    brokers: int
    durable: bool
    parts: Collection[Part]
    postgres_settings: Mapping[str, object] | None
    kafka_settings: BrokerSettings | None


def silent(_: str) -> None:
    """Drop the report."""


def start(
    data: Path,
    *,
    brokers: int = 1,
    durable: bool = True,
    parts: Collection[Part] = ALL_PARTS,
    postgres_settings: Mapping[str, object] | None = None,
    kafka_settings: BrokerSettings | None = None,
    report: Report = silent,
) -> Servers:
    """Start the servers and leave them running, also after this process has ended.

    Servers that run are kept; so are the data and, while they are free, the ports of earlier
    starts. `durable=False` lets a crash of the machine (not of a process) lose commits.
    `postgres_settings` are lines of postgresql.conf, `kafka_settings` a broker's of server.properties;
    they apply to this start only. `report` is called from several threads.
    """
    data = data.resolve()
    refuse_foreign(data)
    with exclusive(data / LOCK_FILE, report):
        server = Postgres.within(data)
        # First: a server still starting, from a start that was killed, would keep its port.
        postgres.clear_leftovers(server)
        state = _decide(data, load(data) or State(), brokers, parts)
        save(data, state)
        with ThreadPoolExecutor(max_workers=1) as aside:
            if "postgres" in parts:
                port, more = state.postgres_port, postgres_settings or {}
                database = aside.submit(postgres.start, server, port, more, report, durable=durable)
            # Kafka in the caller's thread, so that Ctrl-C interrupts its download.
            if "kafka" in parts:
                class_path = jars.class_path(report)
                kafka.start(nodes(data, state), state, class_path, report, kafka_settings)
            if "postgres" in parts:
                database.result()
    return Servers(
        postgres.url(state.postgres_port) if "postgres" in parts else "",
        bootstrap_servers(state.brokers) if "kafka" in parts else "",
    )


def stop(data: Path, *, keep: Collection[str] = (), report: Report = silent) -> None:
    """Stop the servers, except those that are named to keep running; their data stays."""
    data = data.resolve()
    if load(data) is None:
        report(f"No servers were ever started in {data}.")
        return
    with exclusive(data / LOCK_FILE, report):
        _stop(data, report, keep)


def reset(data: Path, *, report: Report = silent) -> None:
    """Stop the servers and remove their data; refuses a directory that is no data directory."""
    data = data.resolve()
    if not data.exists():
        return
    refuse_foreign(data)
    with exclusive(data / LOCK_FILE, report):
        _stop(data, report)
        erase(data)
        report(f"Removed the servers' data from {data}.")


@contextmanager
def running(
    data: Path, *, report: Report = silent, **options: Unpack[StartOptions]
) -> Iterator[Servers]:
    """Run servers for the length of a block; they stop with it, also on Ctrl-C, SIGTERM or hang-up.

    Servers that ran before are used and left running.
    """
    before = {row.name for row in status(data) if row.state == "running"}
    with signals.raising():
        try:
            yield start(data, report=report, **options)
        finally:
            with signals.ignoring():
                stop(data, keep=before, report=report)


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


def _decide(data: Path, state: State, brokers: int, parts: Collection[Part]) -> State:
    """Return the state with the choices that this start needs: earlier ones, where still possible."""
    port = state.postgres_port
    if "postgres" in parts and not (Postgres.within(data).process() or (port and claim(port))):
        state = replace(state, postgres_port=free_port())
    return _decide_brokers(data, state, brokers) if "kafka" in parts else state


def _decide_brokers(data: Path, state: State, count: int) -> State:
    if count not in CLUSTER_SIZES:
        raise LocalError(f"A cluster has 1 or 3 brokers, not {count}.")
    if state.brokers and len(state.brokers) != count:
        raise LocalError(
            f"{data} holds a cluster of {len(state.brokers)} brokers, which cannot change to "
            f"{count}. Use --brokers {len(state.brokers)}, reset it, or choose another directory."
        )
    if not state.brokers:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        return replace(state, kafka_cluster=cluster, brokers=new_brokers(count))
    some = nodes(data, state)
    if any(node.process() for node in some) or all(node.claims_its_ports() for node in some):
        # While one broker runs, the others must keep the ports that it has of them.
        return state
    return replace(state, brokers=new_brokers(count))


def _stop(data: Path, report: Report, keep: Collection[str] = ()) -> None:
    """Stop all servers but the kept ones, in parallel; the caller holds the lock."""
    ran = {row.name for row in status(data) if row.state == "running"}
    ending = [node for node in nodes(data, load(data) or State()) if node.home.name not in keep]
    with ThreadPoolExecutor(max_workers=1) as aside:
        brokers = aside.submit(kafka.stop, ending, report)
        if POSTGRES not in keep:
            postgres.stop(Postgres.within(data))
        brokers.result()
    report(_ended(ran, keep))


def _ended(ran: Collection[str], keep: Collection[str]) -> str:
    """Return what happened to the servers that ran until now."""
    left = sorted(set(ran) & set(keep))
    if not ran:
        return "The servers were not running."
    if len(left) == len(ran):
        return "The servers ran before and still run."
    if left:
        return f"The servers have stopped, except {', '.join(left)}, which ran before."
    return "The servers have stopped."
