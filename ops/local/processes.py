"""Processes of the embedded servers, known by their command lines.

Process ids from files are not trusted: a server is found by an argument that names its data
directory. So a reused id is never signalled, and a server is found after the process that started it
has died. A process found here carries its creation time, and psutil checks it before every signal.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

POLL_INTERVAL_S = 0.05
STANDARD_ERROR = 2
# Python or a shell may have set them to "ignore", which a child would inherit.
RESET_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def find(*arguments: str) -> list[psutil.Process]:
    """Return the live processes with all of these arguments in their command line."""
    return _matching(lambda process: set(arguments).issubset(process.cmdline()))


def find_one(*arguments: str) -> psutil.Process | None:
    return next(iter(find(*arguments)), None)


def find_in(directory: Path, name: str) -> list[psutil.Process]:
    """Return the live processes of this name that have this working directory."""
    return _matching(lambda process: process.name() == name and process.cwd() == str(directory))


def launch(command: Sequence[str], *, console: Path) -> psutil.Process:
    """Start a process that outlives this one, in its own session: no Ctrl-C or hang-up reaches it.

    Its output replaces the file `console`. It inherits no open file: an inherited socket would stay
    in use after this process closes it, and a pipe would never end.
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
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def end(processes: Iterable[psutil.Process], *, patience_s: float) -> bool:
    """Terminate processes; kill those that still run after a time; return whether there were none."""
    ending = list(processes)
    terminate(ending)
    _, running = psutil.wait_procs(ending, timeout=patience_s)
    kill(running)
    return not running


def terminate(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL processes and all their descendants, and wait until they have ended."""
    killed: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            killed += [process, *process.children(recursive=True)]
    for process in killed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(killed, timeout=10)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Return whether the condition became true in time; it is tested at least once."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def _inheritable() -> Iterator[int]:
    """Yield the open files that a started program would inherit, without the standard ones."""
    for opened in (int(entry.name) for entry in Path("/dev/fd").iterdir()):
        with suppress(OSError):  # the one that read the directory is closed by now
            if opened > STANDARD_ERROR and os.get_inheritable(opened):
                yield opened


def _matching(is_meant: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    # Not psutil.process_iter, which shares its objects between threads: several threads search.
    for pid in psutil.pids():
        with suppress(psutil.Error):  # it has ended, or the system hides it
            process = psutil.Process(pid)
            if is_meant(process):
                found.append(process)
    return found
