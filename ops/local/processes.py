"""Processes of the embedded servers, known by their command lines.

Nothing here trusts a process id from a file: a server is found by an argument that names our data
directory, so an id that the system has given to somebody else can never be signalled, and a server
is found again whoever started it and however that one died. A process found here carries its
creation time, and psutil checks it before every signal.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

POLL_INTERVAL_S = 0.05
STANDARD_ERROR = 2
# What Python or a shell may have set to "ignore", and a child would inherit.
RESET_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def find(*arguments: str) -> list[psutil.Process]:
    """The live processes that have all of these among their command line's arguments."""
    wanted = set(arguments)
    return [process for process in _all() if wanted.issubset(command_line(process))]


def find_one(*arguments: str) -> psutil.Process | None:
    return next(iter(find(*arguments)), None)


def find_in(directory: Path, name: str) -> list[psutil.Process]:
    """The live processes of this name whose working directory is this one."""

    def matches(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.name() == name and process.cwd() == str(directory)
        return False

    return [process for process in _all() if matches(process)]


def command_line(process: psutil.Process) -> list[str]:
    """A process's arguments; none if it has ended meanwhile, or is hidden from us."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def launch(command: Sequence[str], *, console: Path) -> psutil.Process:
    """Start a process that outlives us, in a session of its own: no Ctrl-C or hang-up reaches it.

    Its output replaces the file `console`. It inherits no open file: a socket that it kept would stay
    taken after all others have closed it, and a pipe would never end.
    """
    overwrite = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(
        command[0],
        list(command),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, console, overwrite, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, opened) for opened in _inheritable()),
        ],
        setsid=True,
        setsigdef=RESET_SIGNALS,
    )
    return psutil.Process(pid)


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(processes: Iterable[psutil.Process], *, patience_s: float) -> bool:
    """Whether processes ended when asked to; those that have not after a time are killed."""
    asked = list(processes)
    ask_to_end(asked)
    _, stubborn = psutil.wait_procs(asked, timeout=patience_s)
    kill_families(stubborn)
    return not stubborn


def ask_to_end(processes: Iterable[psutil.Process]) -> None:
    _signal(processes, signal.SIGTERM)


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL, and wait until they are gone."""
    doomed = list(processes)
    _signal(doomed, signal.SIGKILL)
    psutil.wait_procs(doomed, timeout=10)


def kill_families(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and all that they started."""
    for process in processes:
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        kill(family)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether the condition came true in time; it is asked at least once."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def accepts(port: int) -> bool:
    """Whether somebody listens on the loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _inheritable() -> Iterator[int]:
    """The open files that a program started now would get, but for the standard ones."""
    for opened in (int(entry.name) for entry in Path("/dev/fd").iterdir()):
        with suppress(OSError):  # the one by which the directory was read is closed by now
            if opened > STANDARD_ERROR and os.get_inheritable(opened):
                yield opened


def _all() -> Iterator[psutil.Process]:
    # Not psutil.process_iter: it shares its objects between threads, and we look from several.
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
