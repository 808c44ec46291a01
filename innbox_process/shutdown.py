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
_LAST_WORDS_S = 0.1
_TOO_LONG = "the graceful stop took too long; ending now"

_log = structlog.get_logger(__name__)


@contextmanager
def stop_on_signals(bound_s: float) -> Iterator[Event]:
    """Give an event that SIGTERM or SIGINT sets.

    A process that has not ended `bound_s` seconds later ends itself: whatever it leaves undone is the
    same as after a crash, which everything here survives.
    """
    # Apart, since a process may have begun to stop by itself, and is bounded from the signal on.
    stop, asked, said = Event(), Event(), Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            return
        asked.set()
        stop.set()
        # Log lines are written by another thread: the signal may have come in the midst of one, and a
        # stream refuses to be entered twice. The end waits for no line: nobody may be reading them.
        Thread(target=_say, args=(number, bound_s, said), name="stop", daemon=True).start()
        Thread(target=_end, args=(bound_s,), name="end", daemon=True).start()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
        if asked.is_set():
            said.wait(_SAY_S_MAX)  # or a process that ends at once would not have said why
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(number: int, bound_s: float, said: Event) -> None:
    _log.info("stopping", signal=signal.Signals(number).name, bound_s=bound_s)
    said.set()


def _end(bound_s: float) -> None:
    time.sleep(bound_s)
    Thread(target=_log.error, args=(_TOO_LONG,), name="stop", daemon=True).start()
    time.sleep(_LAST_WORDS_S)
    os._exit(1)
