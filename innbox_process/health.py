"""Health: is the process alive, can it do its work, and what has it counted. The same for all processes.

Live means that the main loop has turned lately. It waits for nothing without a bound, so a loop that does
not turn hangs by itself: a database or a broker that hangs never makes a process look dead.

Ready means that every named part last said it is well, and that each dependency which is probed
(`innbox_process.probing`) has answered well, and lately: a probe that hangs says nothing.
"""

import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from innbox_process.bounds import answer_s_max
from innbox_process.config import DatabaseSettings, SettingsError

# What starts a process and asks whether it is ready gives it this variable. The answer repeats it:
# an answer without it is another program's, which holds the port.
INSTANCE = "INNBOX_INSTANCE"

READY = Gauge(
    "innbox_dependency_ready",
    "1 if a dependency (database, commits, kafka) answers as it must, 0 if the process waits for it.",
    ["dependency"],
)
# A dependency of which nothing was heard for so long is not there.
SILENT_S_MAX = 5.0
STARTING = "starting"

HUNG_S_MIN = 60.0
# So many statements, each as slow as may be, lie between two turns of a loop at most.
STATEMENTS_PER_TURN = 6
_JSON = "application/json"
_log = structlog.get_logger(__name__)


def hung_s(settings: DatabaseSettings) -> float:
    """Return how long a loop that waits for Postgres may take for one turn and be alive."""
    return max(HUNG_S_MIN, STATEMENTS_PER_TURN * answer_s_max(settings))


@dataclass(slots=True)
class _Probed:
    """What a probe last found, when, and what it means if it finds nothing more."""

    silence: str
    problem: str | None = STARTING
    at: float = field(default_factory=time.monotonic)
    told: str | None = STARTING

    @property
    def is_silent(self) -> bool:
        return time.monotonic() - self.at > SILENT_S_MAX

    @property
    def now(self) -> str | None:
        return self.silence if self.is_silent else self.problem


class Health:
    """What the parts of one process say of themselves; safe to call from any thread."""

    def __init__(self, *, parts: tuple[str, ...] = (), beat_s_max: float = HUNG_S_MIN) -> None:
        self._lock = Lock()
        self._problems: dict[tuple[str, str], str | None] = {(part, ""): STARTING for part in parts}
        self._probed: dict[str, _Probed] = {}
        self._beat_s_max = beat_s_max
        self._beat_at = time.monotonic()

    def beat(self) -> None:
        """Say that the main loop has turned."""
        self._beat_at = time.monotonic()

    def well(self, part: str, *, of: str = "") -> None:
        """Say that a part can do its work; where there are several of a kind, `of` names one."""
        self._say(part, of, None)

    def unwell(self, part: str, problem: str, *, of: str = "") -> bool:
        """Say why a part cannot; returns whether that is news, so that it is logged once."""
        return self._say(part, of, problem)

    def forget(self, of: str) -> None:
        """Drop what was said of one of several: it is no longer there."""
        with self._lock:
            for known in [known for known in self._problems if known[1] == of]:
                del self._problems[known]

    def expect(self, part: str, *, silence: str) -> None:
        """Have a part probed from now on; `silence` says what it means if its probe does not answer."""
        with self._lock:
            self._probed[part] = _Probed(silence)

    def probed(self, part: str, problem: str | None) -> None:
        """Say what a probe has found; None is well."""
        with self._lock:
            probed = self._probed[part]
            probed.problem, probed.at = problem, time.monotonic()

    def is_silent(self, part: str) -> bool:
        """Whether the probe of a part waits for an answer for too long."""
        probed = self._probed.get(part)
        return probed is not None and probed.is_silent

    def tell(self) -> None:
        """Log and count what has become of the probed parts since; any probe tells for all."""
        news = []
        with self._lock:
            for part, probed in self._probed.items():
                if (now := probed.now) != probed.told:
                    news.append((part, now, probed.told))
                    probed.told = now
        for part, problem, was in news:  # nobody who asks waits for a log that nobody reads
            READY.labels(part).set(problem is None)
            if problem is not None:
                _log.warning("a dependency is not ready", dependency=part, reason=problem)
            elif was != STARTING:
                _log.info("a dependency is ready again", dependency=part)

    @property
    def is_live(self) -> bool:
        return time.monotonic() - self._beat_at < self._beat_s_max

    @property
    def problems(self) -> dict[str, str]:
        """The parts that are not well, with their reasons."""
        found: dict[str, list[str]] = {}
        with self._lock:
            for part, probed in self._probed.items():
                if problem := probed.now:
                    found[part] = [problem]
            for (part, of), problem in sorted(self._problems.items()):
                if problem:
                    found.setdefault(part, []).append(f"{of}: {problem}" if of else problem)
        return {part: "; ".join(dict.fromkeys(said)) for part, said in sorted(found.items())}

    def _say(self, part: str, of: str, problem: str | None) -> bool:
        with self._lock:
            is_news = self._problems.get((part, of)) != problem
            self._problems[part, of] = problem
        return is_news


class HealthServer(ThreadingHTTPServer):
    """Serves /healthz/live, /healthz/ready and /metrics on a port of its own; 0 is any free one."""

    daemon_threads = True

    def __init__(self, health: Health, host: str, port: int) -> None:
        self.health = health
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            where = f"{host}:{port}"
            raise SettingsError(f"HOST, HEALTH_PORT: cannot listen on {where}: {error}") from error
        self._loop = Thread(target=self.serve_forever, name="health", daemon=True)
        self._loop.start()
        _log.info("health", port=self.port)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._loop.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what kept a probe from its answer; a client that hung up is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            _log.exception("a probe was not answered", request=str(request), client=client_address)


class _Handler(BaseHTTPRequestHandler):
    server: HealthServer

    def do_GET(self) -> None:
        status, content_type, body = answer(self.server.health, self.path)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds; their log lines would bury the others."""


def answer(health: Health, path: str) -> tuple[HTTPStatus, str, bytes]:
    """Return status, content type and body for one of the three paths."""
    match path:
        case "/healthz/live":
            status = HTTPStatus.OK if health.is_live else HTTPStatus.SERVICE_UNAVAILABLE
            return status, _JSON, json.dumps({"live": health.is_live}).encode()
        case "/healthz/ready":
            problems = health.problems
            status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
            body: dict[str, object] = {"ready": not problems, "problems": problems}
            if instance := os.environ.get(INSTANCE):
                body["instance"] = instance
            return status, _JSON, json.dumps(body).encode()
        case "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest()
    return HTTPStatus.NOT_FOUND, _JSON, b'{"error": "try /healthz/live, /healthz/ready, /metrics"}'
