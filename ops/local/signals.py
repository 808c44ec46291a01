"""Requests to end a process (Ctrl-C, SIGTERM, hang-up), while it looks after servers.

Outside the main thread nothing can be handled, and both blocks do nothing.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def raising() -> Iterator[None]:
    """Let a request to end unwind the stack, as Ctrl-C does, instead of ending us on the spot."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handling(ENDING_SIGNALS, unwind):
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """Hold further requests to end off: what runs now is short, and must be finished."""
    with _handling((signal.SIGINT, *ENDING_SIGNALS), signal.SIG_IGN):
        yield


@contextmanager
def _handling(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
