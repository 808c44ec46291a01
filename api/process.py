"""The API as a process: `innbox api`."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import structlog
import uvicorn

from api.app import create_app
from runtime.settings import Settings, SettingsError
from runtime.shutdown import stop_on_signals

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM: then accept nothing more, answer what was asked, and end in time."""
    with stop_on_signals(settings.shutdown_s) as stop, listening(settings) as listener:
        server = Server(settings, stop)
        host, port = listener.getsockname()[:2]
        _log.info("serving", url=f"http://{host}:{port}", port=port)
        server.run(sockets=[listener])


class Server(uvicorn.Server):
    """A uvicorn that stops when the event is set, and sends those who wait home first."""

    def __init__(self, settings: Settings, stop: Event) -> None:
        app = create_app(settings)
        self._waiters = app.state.waiters
        self._stop = stop
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                ws="none",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                # A second is left to close what is open, before `stop_on_signals` ends it all.
                timeout_graceful_shutdown=max(1, int(settings.shutdown_s) - 1),
            )
        )

    async def on_tick(self, counter: int) -> bool:
        return self._stop.is_set() or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._waiters.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `stop_on_signals`."""
        yield


def listening(settings: Settings) -> socket.socket:
    """Return a socket that queues who comes before the API has started; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay (40 ms a response) off only where it
    # reads TCP; `socket.create_server` leaves it open.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.api_port))
        listener.listen()
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.api_port}"
        raise SettingsError(f"HOST, API_PORT: cannot listen on {where}: {error}") from error
    return listener
