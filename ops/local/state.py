"""A data directory of the embedded servers: its state, its lock, and what may be erased.

`servers.json` is written first and removed last: it marks a data directory, and a directory that has
other files instead is never written to or erased. It keeps only ports and identities; whether a server
runs is read from the system's processes (see processes.py), never from a file.

One process at a time changes the servers of a directory.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from ops.errors import LocalError
from ops.locks import LockHeld, holding

LOCK_TIMEOUT_S = 180
STATE_FILE = "servers.json"
LOCK_FILE = "servers.lock"
# The files of `innbox up`, which it makes without embedded servers too: then this directory is not
# marked, and yet not foreign.
PROCESS_FILES = ("jwt.key", "jwt.[0-9]*", "up.lock", "api.url", "logs")
# Only the logs of innbox's processes: a directory of this name may hold others.
LOGS = tuple(f"logs/{name}.log" for name in ("api", "relay", "relay-*", "rooms", "results"))
NEW_STATE_FILE = f"{STATE_FILE}.new"
OWN_FILES = ("postgres*", "kafka-*", *LOGS, *PROCESS_FILES, NEW_STATE_FILE, STATE_FILE, LOCK_FILE)

Report = Callable[[str], None]


class Broker(msgspec.Struct, frozen=True):
    node: int
    port: int
    controller_port: int


class State(msgspec.Struct, frozen=True):
    """The decisions of a first start; zero or empty is undecided."""

    postgres_port: int = 0
    kafka_cluster: str = ""
    brokers: tuple[Broker, ...] = ()


def load(data: Path) -> State | None:
    """Return the directory's state, or None if it is no data directory."""
    try:
        return msgspec.json.decode((data / STATE_FILE).read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LocalError(
            f"{data / STATE_FILE} is damaged ({error}). Choose another directory with --data."
        ) from error


def save(data: Path, state: State) -> None:
    replace_file(data / STATE_FILE, msgspec.json.format(msgspec.json.encode(state)))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, also after a crash, finds the old content or the new one."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def refuse_foreign(data: Path) -> None:
    """Raise `LocalError` if the directory has files, and is no data directory."""
    if data.exists() and load(data) is None:
        own = (LOCK_FILE, NEW_STATE_FILE, *PROCESS_FILES)
        names = sorted(entry.name for entry in data.iterdir())
        if foreign := [name for name in names if not any(fnmatch(name, one) for one in own)]:
            raise LocalError(
                f"{data} is not a data directory of the embedded servers: it holds "
                f"{', '.join(foreign[:3])}. Choose an empty or a new directory."
            )


def erase(data: Path) -> None:
    """Remove the own files of a data directory, its mark last, and the directory if empty."""
    refuse_foreign(data)
    for pattern in OWN_FILES:
        for entry in data.glob(pattern):
            if entry.name == "logs":
                _remove_if_empty(entry)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    _remove_if_empty(data)


@contextmanager
def exclusive(path: Path, report: Report) -> Iterator[None]:
    """Hold a lock file; report its holder while waiting, and give up after LOCK_TIMEOUT_S."""

    def report_wait(holder: str) -> None:
        report(f"Waiting for {holder}, which works on {path.parent}.")

    try:
        with holding(path, within_s=LOCK_TIMEOUT_S, on_wait=report_wait):
            yield
    except LockHeld as held:
        raise LocalError(
            f"{held.holder} has worked on {path.parent} for more than {LOCK_TIMEOUT_S} s. "
            "Try again later."
        ) from held


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()
