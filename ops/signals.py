"""Signals that end a process (Ctrl-C, SIGTERM, hang-up), while it supervises others.

Outside the main thread Python handles no signals, and the blocks do nothing. However a block ends, it
restores the handlers from before.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | signal.Handlers | int | None
ALL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Set for a process whose standard input is held open by its supervisor.
SUPERVISED = "INNBOX_SUPERVISED"


@contextmanager
def raising() -> Iterator[None]:
    """Let the ending signals unwind the stack, as Ctrl-C does, instead of ending the process at once."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handling(unwind, [signal.SIGTERM, signal.SIGHUP]):
        yield


@contextmanager
def ignoring() -> Iterator[None]:
    """Ignore the signals in a short block that must finish. Programs started in it ignore them too."""
    with _handling(signal.SIG_IGN, ALL_SIGNALS):
        yield


@contextmanager
def postponed() -> Iterator[None]:
    """Handle a signal at the end of the block, which must not be interrupted."""
    received: list[int] = []
    with _handling(lambda number, _: received.append(number), ALL_SIGNALS):
        yield
    if received:
        signal.raise_signal(received[0])


def ignore_further() -> None:
    """Ignore the signals until the surrounding block of this module ends."""
    # A handler, since a program that is started meanwhile would inherit SIG_IGN.
    _handle(lambda *_: None, ALL_SIGNALS)


def end_with_supervisor() -> None:
    """Have this process send itself SIGTERM when its supervisor is gone, even by SIGKILL."""
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_end_at_eof, name="supervised", daemon=True).start()


def _end_at_eof() -> None:
    # Not through `sys.stdin`: a daemon thread that holds its lock makes the interpreter abort at exit.
    while os.read(0, 1):
        pass
    main = threading.main_thread().ident
    assert main is not None, "the main thread was started"
    # To the main thread, so that it wakes up: handlers run only there.
    signal.pthread_kill(main, signal.SIGTERM)


@contextmanager
def _handling(handler: Handler, numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Handle these signals within the block; all handlers are restored, also what the block changed."""
    before = {number: signal.getsignal(number) for number in ALL_SIGNALS}
    try:
        _handle(handler, numbers)
        yield
    finally:
        for number, previous in before.items():
            _handle(previous, [number])


def _handle(handler: Handler, numbers: Sequence[signal.Signals]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            signal.signal(number, handler)
