"""Requests to end a process (Ctrl-C, SIGTERM, hang-up), while it looks after others.

Outside the main thread nothing can be handled, and the blocks do nothing. However a block ends, who
handled before it handles again.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
ALL_SIGNALS = (signal.SIGINT, *ENDING_SIGNALS)

# Set for a process whose standard input is held open by its supervisor.
SUPERVISED = "INNBOX_SUPERVISED"


@contextmanager
def raising() -> Iterator[None]:
    """Let a request to end unwind the stack, as Ctrl-C does, instead of ending us on the spot."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _restored(ALL_SIGNALS):
        _handle(ENDING_SIGNALS, unwind)
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """Hold further requests to end off: what runs now is short, and must be finished.

    Programs started in the block are deaf to them, too.
    """
    with _restored(ALL_SIGNALS):
        _handle(ALL_SIGNALS, signal.SIG_IGN)
        yield


@contextmanager
def postponed() -> Iterator[None]:
    """Hear a request to end at the end of the block: what runs now must not be cut in two."""
    heard: list[int] = []
    with _restored(ALL_SIGNALS):
        _handle(ALL_SIGNALS, lambda number, _: heard.append(number))
        yield
    if heard:
        signal.raise_signal(heard[0])


def hear_no_more() -> None:
    """Let requests to end change nothing until the surrounding block of this module ends."""
    # A handler, for a program started meanwhile would inherit SIG_IGN.
    _handle(ALL_SIGNALS, lambda *_: None)


def end_with_supervisor() -> None:
    """Have this process ask itself to end when its supervisor is gone, even by SIGKILL."""
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_end_at_eof, name="supervised", daemon=True).start()


def _end_at_eof() -> None:
    # Not through `sys.stdin`: a daemon thread that holds its lock aborts the interpreter's end.
    while os.read(0, 1):
        pass
    main = threading.main_thread().ident
    assert main is not None, "the main thread was started"
    # To the main thread, so that it wakes up: only there do handlers run.
    signal.pthread_kill(main, signal.SIGTERM)


@contextmanager
def _restored(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if _may_handle():
            for number, previous in before.items():
                signal.signal(number, previous)


def _handle(numbers: Sequence[signal.Signals], handler: Handler) -> None:
    if _may_handle():
        for number in numbers:
            signal.signal(number, handler)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()
