"""The two servers together: started in parallel, stopped, erased.

Every change of a data directory is made under its lock, by one process at a time; reading takes no lock.
Every call is idempotent, and completes an earlier one that was interrupted.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ops import signals
from ops.local import jars, kafka, postgres
from ops.local.node import BrokerSettings, Node, bootstrap_servers, nodes
from ops.local.plan import Part, decide
from ops.local.postgres import Postgres
from ops.local.state import Report, State, adopt, erase, load, locked, refuse_foreign, require, save
from ops.local.status import POSTGRES, status

ALL_PARTS: tuple[Part, ...] = ("postgres", "kafka")


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers' addresses; empty for a part that was not requested."""

    database_url: str
    kafka_bootstrap_servers: str


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
    with locked(data, report):
        # First: a server still starting, from a start that was killed, would keep its port.
        postgres.clear_leftovers(Postgres.within(data))
        state = decide(data, adopt(data), brokers, parts)
        save(data, state)
        start_postgres = partial(
            postgres.start, durable=durable, report=report, settings=postgres_settings
        )
        start_kafka = partial(kafka.start, report=report, settings=kafka_settings)
        _start_parts(data, state, parts, start_postgres, start_kafka, report)
    return Servers(
        postgres.url(state.postgres_port) if "postgres" in parts else "",
        bootstrap_servers(state.brokers) if "kafka" in parts else "",
    )


def stop(data: Path, *, report: Report = silent) -> None:
    """Stop the servers and keep their data."""
    if load(data) is None:
        report(f"No servers were ever started in {data}.")
    _stop_unless_kept(data.resolve(), (), report)


def reset(data: Path, *, report: Report = silent) -> None:
    """Stop the servers and remove their data; refuses a directory that is no data directory."""
    data = data.resolve()
    if not data.exists():
        return
    refuse_foreign(data)
    with locked(data, report):
        _stop(data, report)
        erase(data)
        report(f"Removed the servers' data from {data}.")


@contextmanager
def running(
    data: Path,
    *,
    brokers: int = 1,
    durable: bool = True,
    parts: Collection[Part] = ALL_PARTS,
    postgres_settings: Mapping[str, object] | None = None,
    kafka_settings: BrokerSettings | None = None,
    report: Report = silent,
) -> Iterator[Servers]:
    """Run servers for the length of a block; they stop with it, also on Ctrl-C, SIGTERM or hang-up.

    Servers that ran before are used and left running.
    """
    before = {row.name for row in status(data) if row.state == "running"}
    with signals.raising():
        try:
            yield start(
                data,
                brokers=brokers,
                durable=durable,
                parts=parts,
                postgres_settings=postgres_settings,
                kafka_settings=kafka_settings,
                report=report,
            )
        finally:
            with signals.ignoring():
                _stop_unless_kept(data.resolve(), before, report)


def start_broker(
    data: Path,
    node: int = 1,
    *,
    kafka_settings: BrokerSettings | None = None,
    report: Report = silent,
) -> None:
    """Start one broker again, on its old port."""
    data = data.resolve()
    state = require(data)
    with locked(data, report):
        class_path = jars.class_path(report)
        kafka.start([_node(data, node)], state, class_path, report, settings=kafka_settings)


def stop_broker(data: Path, node: int = 1, *, report: Report = silent) -> None:
    """Stop one broker in order."""
    leaving = _node(data.resolve(), node)
    with locked(data.resolve(), report):
        kafka.stop([leaving], report)


def kill_broker(data: Path, node: int = 1) -> None:
    """SIGKILL one broker, like a crash; takes no lock."""
    kafka.kill(_node(data.resolve(), node))


def _stop_unless_kept(data: Path, keep: Collection[str], report: Report) -> None:
    if load(data) is not None:
        with locked(data, report):
            _stop(data, report, keep)


def _node(data: Path, node: int) -> Node:
    return Node.within(data, require(data).broker(node))


def _start_parts(
    data: Path,
    state: State,
    parts: Collection[Part],
    start_postgres: Callable[[Postgres, int], None],
    start_kafka: Callable[[list[Node], State, str], None],
    report: Report,
) -> None:
    with ThreadPoolExecutor(max_workers=1) as aside:
        server, port = Postgres.within(data), state.postgres_port
        database = aside.submit(start_postgres, server, port) if POSTGRES in parts else None
        # Kafka in the caller's thread, so that Ctrl-C interrupts its download.
        if "kafka" in parts:
            start_kafka(nodes(data, state), state, jars.class_path(report))
        if database:
            database.result()


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
