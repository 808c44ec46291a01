"""Processor time: of a run's processes, and of the servers where they run on this machine.

A server is found by what it says of itself: Postgres by the process that serves a session, Kafka by the
process that listens on its port. One that runs elsewhere, or in a container, is not seen.
"""

from collections.abc import Mapping, Sequence

import psutil
from sqlalchemy import text

from ops.bench.environment import session
from ops.supervisor import ChildState
from runtime.settings import Settings

# Of each name the processes whose trees count; None: they are not seen.
Watched = Mapping[str, Sequence[psutil.Process] | None]


def watched(settings: Settings, states: Sequence[ChildState]) -> Watched:
    """Return the processes of a supervisor, of Postgres and of Kafka."""
    own = {state.name: [psutil.Process(state.pid)] for state in states}
    return {**own, "postgres": _postgres(settings), "kafka": _kafka(settings)}


def seconds_of(these: Watched) -> dict[str, float | None]:
    """Return the processor time that each has taken so far, with all that it has started."""
    return {
        name: None if found is None else sum(map(_tree_s, found)) for name, found in these.items()
    }


def _tree_s(process: psutil.Process) -> float:
    """Return the time of a process and of all below it, also of those that have ended."""
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            own = child.cpu_times()
        except psutil.Error:  # it has just ended: from now on its parent has its time
            continue
        total += own.user + own.system + own.children_user + own.children_system
    return float(total)


def _postgres(settings: Settings) -> list[psutil.Process] | None:
    with session(settings) as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        name = connection.scalar(text("SELECT current_database()"))
        try:
            backend = psutil.Process(pid)
            # Elsewhere another process, or none, has this id.
            is_here = "postgres" in backend.name() and any(name in one for one in backend.cmdline())
            return [parent] if is_here and (parent := backend.parent()) else None
        except psutil.Error:
            return None


def _kafka(settings: Settings) -> list[psutil.Process] | None:
    ports = {one.rpartition(":")[2] for one in settings.kafka_bootstrap_servers.split(",")}
    found = {str(port): pid for port, pid in _listeners()}
    brokers = [pid for port in ports if (pid := found.get(port)) is not None]
    return [psutil.Process(pid) for pid in brokers] if len(brokers) == len(ports) else None


def _listeners() -> list[tuple[int, int]]:
    """Return ports and who listens on them, as far as this user may know."""
    try:
        open_ = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS
        return []
    return [
        (one.laddr[1], one.pid)
        for one in open_
        if one.status == psutil.CONN_LISTEN and one.pid is not None and one.laddr
    ]
