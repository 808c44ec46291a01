"""A lock file that names its holder.

The lock is the kernel's (flock), so it ends with the process that holds it, even by SIGKILL.
`filelock` does not serve: it names no holder to the process that waits, cannot test a lock without taking
it, and gives up when the holder erases the directory.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TextIO

RETRY_S = 0.02


class LockHeld(Exception):
    """Another process holds the lock; `holder` names it."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}")
        self.holder = holder


@contextmanager
def holding(
    path: Path, *, within_s: float, on_wait: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Hold the lock for the length of a block; raises `LockHeld` if it does not become free in time.

    `on_wait` is called once, with the holder, before the first wait. The file is empty at the end.
    """
    ends_at, waits = monotonic() + within_s, False
    while (file := _try_lock(path)) is None:
        if monotonic() > ends_at:
            raise LockHeld(path, _holder(path))
        if not waits:
            on_wait(_holder(path))
            waits = True
        sleep(RETRY_S)
    with file:
        file.write(f"process {os.getpid()} ({Path(sys.argv[0]).name})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock; raises `FileNotFoundError` if there is no lock file."""
    with path.open() as file:
        try:
            # Shared, so that two processes that test at once do not find each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _try_lock(path: Path) -> TextIO | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder may have removed the file: then this lock guards nothing.
        is_current = os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except (BlockingIOError, FileNotFoundError):
        is_current = False
    if not is_current:
        file.close()
        return None
    file.truncate(0)
    return file


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "another process"
    except FileNotFoundError:
        return "another process"
