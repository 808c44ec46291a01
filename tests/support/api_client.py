"""An API on a port of its own, members who call it, and a wire to its database that can be cut."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Event, Thread
from typing import Any

import httpx
from sqlalchemy import Engine, make_url, text

from api.identity.scopes import READ, WRITE
from api.identity.signing import sign
from api.reservations.deps import STREAMS
from api.serving.process import Server, listening
from runtime.settings import Settings
from tests.support.waiting import eventually

ME, ANOTHER = 7, 8
RESERVATIONS = "/v1/reservations"


def some_settings(database_url: str, **changes: object) -> Settings:
    defaults: dict[str, object] = {
        "database_url": database_url,
        # Nobody listens there: the API never talks to Kafka.
        "kafka_bootstrap_servers": "127.0.0.1:1",
        "api_port": 0,
        # A machine that stalls is no overload; less than a client of the tests waits.
        "pool_timeout_s": 20.0,
        "jwt_key": "a key for tests, of thirty-two bytes or more",
        "log_format": "json",
    }
    return Settings.model_validate(defaults | changes)


@dataclass(frozen=True)
class Api:
    url: str
    settings: Settings
    stop: Event
    clients: ExitStack = field(default_factory=ExitStack)

    def member(self, member: int = ME, *scopes: str) -> httpx.Client:
        """Return a client of a member who may reserve, or exactly what is named."""
        token = sign(self.settings, member, scopes or (READ, WRITE))
        return self.client({"Authorization": f"Bearer {token}"})

    def client(self, headers: dict[str, str]) -> httpx.Client:
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        return self.clients.enter_context(client)


@contextmanager
def an_api(database_url: str, **changes: object) -> Iterator[Api]:
    """Serve for the length of a block, over a real socket and in a thread of its own."""
    settings = some_settings(database_url, **changes)
    stop = Event()
    with listening(settings) as listener:
        server = Server(settings, stop)
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started)
            with closing(ExitStack()) as clients:
                yield Api(f"http://127.0.0.1:{listener.getsockname()[1]}", settings, stop, clients)
        finally:
            stop.set()
            thread.join()


@contextmanager
def an_api_process(
    database_url: str, *, open_files_max: int | None = None, **environment: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`innbox api`, once it serves: the process, whose log is read line by line, and its URL."""
    settings = some_settings(database_url)
    needed = {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "JWT_KEY": settings.jwt_key.get_secret_value(),
        "API_PORT": "0",
    }
    command = [sys.executable, "-m", "ops.cli", "api"]
    if open_files_max:
        command = ["sh", "-c", f'ulimit -n {open_files_max}; exec "$@"', "sh", *command]
    with subprocess.Popen(
        command,
        env=os.environ | needed | environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            yield process, json.loads(process.stderr.readline())["url"]
        finally:
            if process.poll() is None:
                process.terminate()


def a_stay(**changes: object) -> dict[str, Any]:
    """A body for POST /v1/reservations."""
    check_in = today() + timedelta(days=30)
    stay = {
        "roomId": 1,
        "checkInDate": check_in.isoformat(),
        "checkOutDate": (check_in + timedelta(days=3)).isoformat(),
    }
    return stay | changes


@cache
def today() -> Any:
    """Read once, or else midnight could fall between two of its calls."""
    return datetime.now(UTC).date()


def a_port() -> socket.socket:
    """A port of this machine that nobody else is given until it is closed, whoever listens on it."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


def count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def put_into(engine: Engine, reservation_id: int, status: str, reason: str | None = None) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE reservations.reservation SET status = :status, reason = :reason WHERE id = :id"
            ),
            {"id": reservation_id, "status": status, "reason": reason},
        )


def take(engine: Engine, *on: str) -> None:
    """Have two rooms held on these nights."""
    with engine.begin() as connection:
        taken = "UPDATE rooms.room_night SET taken = 2 WHERE night = ANY (CAST(:on AS date[]))"
        connection.execute(text(taken), {"on": list(on)})


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    """Every error is an RFC 9457 problem that names its type, its place and its trace."""
    problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status_code, problem["status"]) == (status, status), response.text
    assert problem["type"] == f"/problems/{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == response.request.url.path
    assert problem["traceId"] in response.headers["traceparent"]


def streams() -> float:
    """How many event streams are open in this process, in which the API runs, too."""
    return float(STREAMS._value.get())


class Wire:
    """A TCP connection to the database's server that can be cut, mended, and made deaf."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._server = (url.host or "127.0.0.1", url.port or 5432)
        self._kept = a_port()
        self._port = self._kept.getsockname()[1]
        self._listener = self._listening()
        self.url = url.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)
        self._open: set[socket.socket] = set()
        self._cut_after: bytes | None = None
        self._accept()

    def cut(self) -> None:
        """Break all connections and refuse new ones, as a server that is down does."""
        _end(self._listener)
        for end in list(self._open):
            _end(end)

    def mend(self) -> None:
        self._listener = self._listening()
        self._accept()

    def cut_after(self, word: bytes) -> None:
        """Break the next connection that sends this word, once the server has got it."""
        self._cut_after = word

    def close(self) -> None:
        self.cut()
        self._kept.close()

    def _listening(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", self._port), reuse_port=True)

    def _accept(self) -> None:
        Thread(target=self._serve, args=[self._listener], daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._server)
                self._open |= {near, far}
                if listener.fileno() == -1:  # cut while this one was being connected
                    _end(near)
                Thread(target=self._carry, args=[near, far], daemon=True).start()
                Thread(target=self._carry, args=[far, near], daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while sent := source.recv(65_536):
                if self._cut_after and self._cut_after in sent:
                    self._cut_after = None
                    # The answer has nowhere to go, but the server acts on what it got.
                    source.shutdown(socket.SHUT_RDWR)
                target.sendall(sent)
        _end(source)
        _end(target)
        self._open -= {source, target}


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
