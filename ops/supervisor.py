"""The supervisor: starts processes, restarts those that die, and stops all of them.

It is for one machine (`innbox up` and the demo); a deployment has an orchestrator. An answer on a child's
port counts only if it repeats the instance id that this start gave to the child.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from secrets import token_hex
from threading import Event, Lock, Thread
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import urlopen

from innbox_process.commands import CommandError
from innbox_process.health import INSTANCE
from ops import signals
from ops.environment import as_environment
from ops.errors import quoted
from ops.ports import free_port
from runtime.settings import Settings

_CHECK_S = 0.1
_RESTART_S_MIN, _RESTART_S_MAX = 0.2, 5.0
_STEADY_S = 10.0
# A process that died so often before it was ready (within about 6 s) will not become ready.
_RESTARTS_MAX = 5
# Another program on the port may answer without end.
_ANSWER_BYTES_MAX = 100_000


@dataclass(slots=True)
class Child:
    """One process: its command, and its state."""

    name: str
    arguments: Sequence[str]
    environment: dict[str, str]
    health_url: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started_at: float = 0.0
    wait_s: float = _RESTART_S_MIN
    # New for each start; the process repeats it in its health answer.
    instance: str = ""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child's health now; `answers` is false while no process, or another program, answers."""

    name: str
    pid: int | None
    restarts: int
    is_ready: bool
    problems: str
    log: Path
    health_url: str = ""
    answers: bool = True


def children_of(settings: Settings, logs: Path) -> list[Child]:
    """Return the four processes; a relay for each database."""
    commands = {"api": ["api"]}
    for context, *_ in settings.databases.values():
        name = "relay" if len(settings.databases) == 1 else f"relay-{context}"
        commands[name] = ["relay", "--context", context]
    commands |= {"rooms": ["rooms"], "results": ["results"]}
    environment = as_environment(settings) | {"PYTHONUNBUFFERED": "1"}
    children = []
    for name, command in commands.items():
        port = (name == "api" and settings.api_port) or free_port()
        own = environment | {"HEALTH_PORT": str(port)}
        arguments = [sys.executable, "-P", "-m", "innbox", *command]
        url = f"http://{settings.host}:{port}"
        children.append(Child(name, arguments, own, url, logs / f"{name}.log"))
    return children


class Supervisor:
    """Runs children for the length of a block."""

    def __init__(self, children: Sequence[Child], *, stop_s: float) -> None:
        self._children = {child.name: child for child in children}
        self._stop_s = stop_s
        self._stopping = Event()
        self._lock = Lock()
        self._watcher = Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        try:
            with signals.postponed():
                for child in self._children.values():
                    _start(child)
                self._watcher.start()
        except BaseException:  # Ctrl-C must leave no process behind
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def kill(self, name: str) -> int:
        """SIGKILL a child, like a crash; returns its pid. It is restarted at once."""
        with self._lock:
            process = self._children[name].process
            assert process is not None, f"{name} was started with the block"
            process.kill()
            return process.pid

    def states(self) -> list[ChildState]:
        """Request the health of every child."""
        return [_state(child) for child in self._children.values()]

    def wait_until_ready(self, deadline_s: float) -> None:
        """Wait until all are ready; raises `NotReady`, which quotes the logs."""
        ends_at = time.monotonic() + deadline_s
        while waiting := [state for state in self.states() if not state.is_ready]:
            is_crashing = any(state.restarts >= _RESTARTS_MAX for state in waiting)
            if is_crashing or time.monotonic() > ends_at:
                raise NotReady(waiting)
            self._stopping.wait(_CHECK_S)

    def _watch(self) -> None:
        while not self._stopping.wait(_CHECK_S):
            for child in self._children.values():
                with self._lock:
                    if child.pid is None and not self._stopping.is_set():
                        self._restart(child)

    def _stop(self) -> None:
        with self._lock:  # no restart from here on
            self._stopping.set()
        with signals.ignoring():
            if self._watcher.is_alive():
                self._watcher.join()
            _end(self._children.values(), self._stop_s)

    def _restart(self, child: Child) -> None:
        """Restart at once the first time, then with a growing delay while the child keeps crashing."""
        lived_s = time.monotonic() - child.started_at
        if lived_s > _STEADY_S:
            child.wait_s = _RESTART_S_MIN
        elif lived_s < child.wait_s:
            return
        child.wait_s = min(child.wait_s * 2, _RESTART_S_MAX)
        child.restarts += 1
        _start(child)


class NotReady(CommandError):
    """Some processes are not ready in time, or keep crashing."""

    def __init__(self, waiting: Sequence[ChildState]) -> None:
        lines = [f"  {state.name}: {state.problems}; see {state.log}" for state in waiting]
        logs = quoted(*(state.log for state in waiting))
        super().__init__("these processes are not ready:\n" + "\n".join(lines) + logs)


def _start(child: Child) -> None:
    child.log.parent.mkdir(parents=True, exist_ok=True)
    child.started_at = time.monotonic()
    _close_stdin(child)
    child.instance = token_hex(8)
    own = child.environment | {signals.SUPERVISED: "1", INSTANCE: child.instance}
    with child.log.open("ab") as log:
        # A session of its own: only the supervisor receives Ctrl-C, and stops the children in order.
        child.process = subprocess.Popen(
            child.arguments,
            env=own,
            # Never written to: it closes when the supervisor ends, even by SIGKILL.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _close_stdin(child: Child) -> None:
    if child.process and child.process.stdin:
        child.process.stdin.close()


def _end(children: Collection[Child], within_s: float) -> None:
    running = [child.process for child in children if child.process]
    for process in running:
        process.send_signal(signal.SIGTERM)
    ends_at = time.monotonic() + within_s
    for process in running:
        try:
            process.wait(max(0.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in children:
        _close_stdin(child)


def _state(child: Child) -> ChildState:
    answer, problems = _answer(child)
    is_ready = answer is not None and answer.get("ready") is True
    now = (child.name, child.pid, child.restarts, is_ready, problems)
    return ChildState(*now, child.log, child.health_url, answers=answer is not None)


def _answer(child: Child) -> tuple[dict[str, Any] | None, str]:
    """Return the child's answer, if there is one, and why the child is not ready."""
    if child.pid is None:
        return None, "not running"
    try:
        answer = json.loads(_body(f"{child.health_url}/healthz/ready"))
    except (OSError, HTTPException):
        return None, "starting"
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("instance") != child.instance:
        return None, f"another program answers on {child.health_url}"
    problems = answer.get("problems", {}).items()
    return answer, "; ".join(f"{part}: {problem}" for part, problem in problems)


def _body(url: str) -> bytes:
    try:
        with urlopen(url, timeout=1) as response:  # noqa: S310 - a child's URL
            return bytes(response.read(_ANSWER_BYTES_MAX))
    except HTTPError as refused:
        with refused:
            return refused.read(_ANSWER_BYTES_MAX)
