"""The API as several processes on one port: `API_PROCESSES`.

The kernel spreads connections over the sockets that share the port, one for each process. All of them are
this process's, too: one that waits in the queue of a process that died is answered by the next. Who dies
is started again, and who hangs is killed and started again; who keeps dying young takes all with it, and
the platform learns of it.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from socket import socket
from tempfile import TemporaryDirectory
from threading import Event, Thread

import structlog
from prometheus_client.multiprocess import mark_process_dead

from api.serving.process import listening, serve
from innbox_process.logs import configure_logs
from innbox_process.shutdown import stop_on_signals
from runtime.settings import Settings

# Where the processes keep their counts, so that any of them can tell those of all.
METRICS = "PROMETHEUS_MULTIPROC_DIR"
_CHECK_S = 0.2
# Its event loop has not turned for so long: whoever the kernel gives it gets no answer.
HUNG_S = 30.0
_STEADY_S = 10.0
_DEATHS_MAX = 5
_SPAWN = get_context("spawn")  # what a fork copies, locks and connections, would not be shared well

_log = structlog.get_logger(__name__)


class KeepsDying(Exception):
    """The processes do not stay alive; their own logs say why."""


@dataclass(slots=True)
class Child:
    """A process that serves, and when its event loop last said that it turns."""

    process: SpawnProcess
    beats: Connection
    listener: socket
    beat_at: float = field(default_factory=time.monotonic)

    @property
    def hangs(self) -> bool:
        """Read what it has said; tells whether that is too long ago."""
        while self.process.is_alive() and self.beats.poll():
            try:
                self.beats.recv_bytes()
            except EOFError:  # it dies
                break
            self.beat_at = time.monotonic()
        return time.monotonic() - self.beat_at > HUNG_S


def run(settings: Settings) -> None:
    """Serve until SIGTERM, in as many processes as the settings say."""
    with stop_on_signals(settings.shutdown_s) as stop, ExitStack() as opened:
        if settings.api_processes == 1:
            serve(settings, opened.enter_context(listening(settings)), stop)
            return

        counts = opened.enter_context(TemporaryDirectory(prefix="innbox-metrics-"))
        os.environ[METRICS] = counts
        listeners = sharing(settings)
        crew = [started(settings, listener) for listener in listeners]
        try:
            look_after(settings, crew, stop)
        finally:
            # First of all: while one of these is open the kernel takes in callers for nobody.
            for listener in listeners:
                listener.close()
            # In less time than this process has itself, or who hangs would outlive it.
            end(crew, max(0.5, settings.shutdown_s - 1))


def serve_alone(settings: Settings, listener: socket, beats: Connection) -> None:
    """Serve as one of several, until SIGTERM or until the process that started this one is gone."""
    configure_logs(settings, "api")
    # A second less than the process has that looks after this one, which kills who takes longer.
    settings = settings.model_copy(update={"shutdown_s": max(1.0, settings.shutdown_s - 1)})
    with stop_on_signals(settings.shutdown_s) as stop, listener:
        watch = Thread(target=_stop_with_parent, args=[stop, settings.shutdown_s], daemon=True)
        watch.start()
        serve(settings, listener, stop, beat=partial(beats.send_bytes, b"."))


def sharing(settings: Settings) -> Sequence[socket]:
    """Return a socket for each process, which share one port; port 0 is any free one."""
    first = listening(settings, shared=True)
    port = first.getsockname()[1]
    same = settings.model_copy(update={"api_port": port})
    return [first, *(listening(same, shared=True) for _ in range(settings.api_processes - 1))]


def started(settings: Settings, listener: socket) -> Child:
    beats, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=serve_alone, args=(settings, listener, theirs), name="api")
    process.start()
    theirs.close()
    return Child(process, beats, listener)


def look_after(settings: Settings, crew: list[Child], stop: Event) -> None:
    """Start again who dies or hangs, until the end; raises `KeepsDying`."""
    deaths, died_at = 0, time.monotonic()
    while not stop.is_set():
        wait([one.process.sentinel for one in crew], timeout=_CHECK_S)
        for place, child in enumerate(crew):
            if child.process.is_alive() and child.hangs:
                _log.error("a process of the API hangs", pid=child.process.pid)
                child.process.kill()
                child.process.join()
            if stop.is_set() or child.process.is_alive():
                continue
            now = time.monotonic()
            deaths = deaths + 1 if now - died_at < _STEADY_S else 1
            died_at = now
            pid, exit_code = child.process.pid, child.process.exitcode
            _log.error("a process of the API died", pid=pid, exit_code=exit_code)
            if deaths > _DEATHS_MAX:
                raise KeepsDying(f"{deaths} processes died within seconds")
            crew[place] = _started_again(settings, child)


def end(crew: Sequence[Child], within_s: float) -> None:
    """Have all end, each in its own good order and time, and wait."""
    for one in crew:
        one.process.terminate()
    ends_at = time.monotonic() + within_s
    for one in crew:
        one.process.join(max(0.0, ends_at - time.monotonic()))
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
        one.beats.close()


def _started_again(settings: Settings, dead: Child) -> Child:
    dead.beats.close()
    if METRICS in os.environ:
        mark_process_dead(dead.process.pid, os.environ[METRICS])  # type: ignore[no-untyped-call]
    return started(settings, dead.listener)


def _stop_with_parent(stop: Event, within_s: float) -> None:
    parent = parent_process()
    assert parent is not None, "one of several has been started by another"
    wait([parent.sentinel])
    stop.set()
    time.sleep(within_s)
    os._exit(1)  # nobody else would end it
