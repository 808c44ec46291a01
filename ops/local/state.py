"""A data directory of the embedded servers: what it says about itself, and who may work on it.

`servers.json` is written before anything else and removed after it: a directory that has it is
ours, and one that has other files instead is never written to or erased. It keeps only ports and
identities; whether a server runs is asked of the system (see processes.py), never of a file.

One process at a time changes the servers of a directory. The lock is the kernel's (flock), so it
goes with its holder, however that one ends.
"""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TextIO

import msgspec

from ops.local.errors import LocalError

LOCK_TIMEOUT_S = 180
STATE_FILE = "servers.json"
LOCK_FILE = "servers.lock"
# What `innbox up` leaves here. It does so without servers of ours, too: then this directory is not
# marked, and yet not foreign.
OF_THE_PROCESSES = ("jwt.key", "jwt.[0-9]*", "up.lock", "api.url", "logs")
# Of the logs only those that our processes write: a directory of this name may hold others.
LOGS = tuple(f"logs/{name}.log" for name in ("api", "relay", "relay-*", "rooms", "results"))
OUR_ENTRIES = (
    "postgres*",
    "kafka-*",
    *LOGS,
    *OF_THE_PROCESSES,
    f"{STATE_FILE}.new",
    STATE_FILE,
    LOCK_FILE,
)

Report = Callable[[str], None]


class Broker(msgspec.Struct, frozen=True):
    node: int
    port: int
    controller_port: int


class State(msgspec.Struct, frozen=True):
    """What is decided once; a zero or an empty value is not decided yet."""

    postgres_port: int = 0
    kafka_cluster: str = ""
    brokers: tuple[Broker, ...] = ()

    def broker(self, node: int) -> Broker:
        for broker in self.brokers:
            if broker.node == node:
                return broker
        raise LocalError(
            f"There is no broker {node}: this cluster has {len(self.brokers)}. "
            "A cluster's size is chosen when it is first started."
        )


def load(data: Path) -> State | None:
    """The directory's state, or None if it is not ours."""
    try:
        return msgspec.json.decode((data / STATE_FILE).read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LocalError(f"{data / STATE_FILE} is damaged ({error}).") from error


def save(data: Path, state: State) -> None:
    replace_file(data / STATE_FILE, msgspec.json.format(msgspec.json.encode(state)))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new one."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def refuse_foreign(data: Path) -> None:
    """Raise if the directory has files, and is not ours."""
    if data.exists() and load(data) is None:
        ours = (LOCK_FILE, f"{STATE_FILE}.new", *OF_THE_PROCESSES)
        names = sorted(entry.name for entry in data.iterdir())
        if foreign := [name for name in names if not any(fnmatch(name, our) for our in ours)]:
            raise LocalError(
                f"{data} is no data directory of the embedded servers: it holds "
                f"{', '.join(foreign[:3])}. Name an empty or a new directory."
            )


def adopt(data: Path) -> State:
    """The directory's state; an empty or new directory becomes ours."""
    refuse_foreign(data)
    state = load(data)
    if state is None:
        state = State()
        save(data, state)
    return state


def require(data: Path) -> State:
    state = load(data)
    if state is None:
        raise LocalError(f"{data} holds no embedded servers. Start them there first.")
    return state


def erase(data: Path) -> None:
    """Remove what we made in a directory of ours, its marks last, and the directory if empty."""
    refuse_foreign(data)
    for pattern in OUR_ENTRIES:
        for entry in data.glob(pattern):
            if entry.name == "logs":
                _remove_if_empty(entry)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    _remove_if_empty(data)


@contextmanager
def locked(data: Path, report: Report) -> Iterator[None]:
    """Hold the directory for ourselves, making it if need be; wait for another holder."""
    with exclusive(data / LOCK_FILE, report):
        yield


@contextmanager
def exclusive(path: Path, report: Report) -> Iterator[None]:
    """Hold a lock file; say for whom we wait, and give up after LOCK_TIMEOUT_S."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    told = False
    while (file := _try_lock(path)) is None:
        holder = _holder(path)
        if time.monotonic() > deadline:
            raise LocalError(f"{path.parent} is being worked on by {holder}. Try again later.")
        if not told:
            report(f"Waiting for {holder}, which works on {path.parent}.")
            told = True
        time.sleep(0.1)
    with file:
        file.write(f"process {os.getpid()} ({Path(sys.argv[0]).name})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _try_lock(path: Path) -> TextIO | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    # The holder before us may have erased the directory: then this lock guards nothing.
    if not _is_still_at(path, file):
        file.close()
        return None
    file.truncate(0)
    return file


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()


def _is_still_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "another process"
    except FileNotFoundError:
        return "another process"
