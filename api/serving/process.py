"""`innbox api`: the API as one process with a socket.

Several of them may share a port (`API_REUSE_PORT`): the kernel spreads new connections over their
sockets. Each has pools, bounds and metrics of its own; the platform replaces one that dies.
"""

import math
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event

import structlog
import uvicorn

from api.app import create_app
from api.serving.connections import Connections
from api.serving.protocol import BoundedProtocol
from innbox_process import garbage
from innbox_process.shutdown import stop_on_signals
from runtime.settings import Settings, SettingsError

# Of the files that a process may open, these are kept for all but connections of clients and of the
# database: its log, its listener and its readers, the issuer's keys.
FILES_RESERVED = 72
# Of the connections, these are for requests that come and go, health checks among them.
CONNECTIONS_FOR_REQUESTS = 100
# Each pool of the API may be twice its size, and the round trips have one of their own.
CONNECTIONS_PER_POOL_SIZE = 3
# With few files it is less.
BACKLOG_MAX = 2_048
# However many files there are: a connection takes some 10 KB.
CONNECTIONS_MAX = 10_000

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    with stop_on_signals(settings.shutdown_s) as stop, listening(settings) as listener:
        serve(settings, listener, stop)


def serve(settings: Settings, listener: socket.socket, stop: Event) -> None:
    """Serve until the event: then accept nothing more, answer what was asked, and end in time."""
    open_files_max = raise_open_files()
    connections_max = _connections_max(settings, open_files_max)
    bounded = _bounded(settings, connections_max)
    server = Server(bounded, stop, connections_max, _backlog(open_files_max))
    host, port = listener.getsockname()[:2]
    bounds = {"open_files_max": open_files_max, "connections_max": connections_max}
    _log.info("serving", url=f"http://{host}:{port}", port=port, **bounds)
    garbage.search_less()
    server.run(sockets=[listener])


def raise_open_files() -> int:
    """Raise the soft limit of open files, often 1024, to the hard one; returns what is in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower one that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _connections_max(settings: Settings, open_files_max: int) -> int:
    """Return how many connections there are files for; raises `SettingsError` if there are too few."""
    others = CONNECTIONS_PER_POOL_SIZE * settings.pool_size * len(settings.databases)
    others += FILES_RESERVED
    connections_max = min(CONNECTIONS_MAX, open_files_max - _backlog(open_files_max) - others)
    if connections_max <= CONNECTIONS_FOR_REQUESTS:
        needed = math.ceil((others + CONNECTIONS_FOR_REQUESTS + 1) * 8 / 7)
        raise SettingsError(
            f"open files: the limit is {open_files_max}, and an API with POOL_SIZE={settings.pool_size} "
            f"needs {needed}: raise `ulimit -n`, or lower POOL_SIZE"
        )
    return connections_max


def _backlog(open_files_max: int) -> int:
    """Return how many connections may wait to be accepted, and have files at once when they are."""
    return min(BACKLOG_MAX, open_files_max // 8)


def _bounded(settings: Settings, connections_max: int) -> Settings:
    streams_max = min(settings.streams_max, connections_max - CONNECTIONS_FOR_REQUESTS)
    return settings.model_copy(update={"streams_max": streams_max})


class Server(uvicorn.Server):
    """A uvicorn that stops when the event is set, and first ends what waits or uploads."""

    def __init__(
        self,
        settings: Settings,
        stop: Event,
        connections_max: int = CONNECTIONS_MAX,
        backlog: int = BACKLOG_MAX,
    ) -> None:
        app = create_app(settings)
        self._watchers, self._uploads = app.state.watchers, app.state.uploads
        self._stop = stop
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                http=partial(BoundedProtocol, connections=Connections(connections_max)),  # type: ignore[arg-type]
                backlog=backlog,
                ws="none",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                # By itself uvicorn would believe whatever comes from this machine.
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.trusted_proxies),
                # A second is left to close what is open, before `stop_on_signals` ends it all.
                timeout_graceful_shutdown=max(1, int(settings.shutdown_s) - 1),
            )
        )

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, says uvicorn."""
        return self._stop.is_set() or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watchers.close()
        self._uploads.close()
        await super().shutdown(sockets)
        for (
            connection
        ) in self.server_state.connections:  # whose client reads nothing, or is too late
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `stop_on_signals`."""
        yield


def listening(settings: Settings) -> socket.socket:
    """Return a socket that queues connections until the API has started; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay (40 ms a response) off only where it
    # reads TCP; `socket.create_server` leaves it open.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.api_reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((settings.host, settings.api_port))
        listener.listen()
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.api_port}"
        raise SettingsError(f"HOST, API_PORT: cannot listen on {where}: {error}") from error
    return listener
