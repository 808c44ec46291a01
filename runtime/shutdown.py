"""Stopping: SIGTERM and SIGINT ask, the loop finishes what it holds, a bound ends the wait."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType

import structlog

_SAY_S_MAX = 1.0

_log = structlog.get_logger(__name__)


@contextmanager
def stop_on_signals(bound_s: float) -> Iterator[Event]:
    """Give an event that SIGTERM or SIGINT sets.

    A process that has not ended `bound_s` seconds later ends itself: whatever it leaves undone is the
    same as after a crash, which everything here survives.
    """
    stop, said = Event(), Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            return
        stop.set()
        # A log line is written by another thread: the signal may have come in the midst of one, and a
        # stream refuses to be entered twice.
        Thread(target=_end_in_time, args=(number, bound_s, said), name="stop", daemon=True).start()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
        if stop.is_set():
            said.wait(_SAY_S_MAX)  # or a process that ends at once would not have said why
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_in_time(number: int, bound_s: float, said: Event) -> None:
    _log.info("stopping", signal=signal.Signals(number).name, bound_s=bound_s)
    said.set()
    time.sleep(bound_s)
    _log.error("the graceful stop took too long; ending now")
    os._exit(1)
