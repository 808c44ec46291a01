"""Bounds on waiting for Postgres that hold although the server says nothing.

`statement_timeout` is the server's own. A server that hangs does not look at it, and it does not cover
a commit, which may wait for a standby without end. The kernel of a machine whose server hangs still
acknowledges what is sent, so TCP notices nothing either. So the client counts: a connection that had no
answer in time is closed, and its statement fails like one whose connection broke.

What was not committed is undone by the server. After a commit, nobody can know: `OutcomeUnknown`.
"""

import math
import time
from collections.abc import Generator
from threading import Event
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from innbox_process.config import DatabaseSettings

# So long an answer may take beyond the server's own limit. With the wait for a connection of the pool
# before it, a request ends within five seconds of that limit.
BEYOND_S = 3.0
_LOOK_S = 0.1

_Answer = TypeVar("_Answer")
_traffic: dict[str, "Traffic"] = {}


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time; the connection is closed."""


class OutcomeUnknown(psycopg.OperationalError):
    """A commit was sent, and the connection ended before its answer: it may have been done or not."""


def answer_s_max(settings: DatabaseSettings) -> float:
    """Return how long a process waits for the answer to one statement."""
    return settings.statement_timeout_s + BEYOND_S


class Traffic:
    """What this process waits for from one database, and when that last answered; for all threads."""

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._since: dict[object, float] = {}

    def begin(self) -> object:
        """Say that a wait for an answer begins; give what is returned to `end`."""
        wait = object()
        self._since[wait] = time.monotonic()
        return wait

    def end(self, wait: object) -> None:
        del self._since[wait]

    def answered(self) -> None:
        self.answered_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long ago the database last answered anybody."""
        return time.monotonic() - self.answered_at

    @property
    def longest_s(self) -> float:
        """How long the longest wait of this moment has lasted."""
        now = time.monotonic()
        return now - min(self._since.copy().values(), default=now)


def traffic_of(url: str) -> Traffic:
    """Return what all engines of this process that have this URL share."""
    return _traffic.setdefault(url, Traffic())


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose waits end; the opener sets the attributes.

    A patient one waits for as long as the server answers anybody, for statements that may take long. The
    event, if there is one, ends a wait as well.
    """

    traffic = Traffic()
    answer_s = math.inf
    is_patient = False
    ended: Event | None = None

    def wait(
        self, gen: PQGen[_Answer], interval: float = _LOOK_S, timeout: float | None = None
    ) -> _Answer:
        """Everything that psycopg sends and receives passes through here."""
        if timeout is not None:  # a wait for notifications, which need not come
            return super().wait(gen, interval, timeout)
        wait = self.traffic.begin()
        try:
            answer = super().wait(self._bounded(gen), interval)
        except NoAnswer:
            self.close()
            raise
        finally:
            self.traffic.end(wait)
        self.traffic.answered()
        return answer

    def commit(self) -> None:
        """Commit; raises `OutcomeUnknown` if the connection ended before the answer."""
        try:
            super().commit()
        except psycopg.OperationalError as error:
            if self.closed:
                raise OutcomeUnknown(str(error)) from error
            raise

    def _bounded(self, gen: PQGen[_Answer]) -> Generator[Any, Any, _Answer]:
        """Pass all on, and look at the clock whenever nothing has come for `interval` seconds."""
        began_at = time.monotonic()
        try:
            awaited = next(gen)
            while True:
                ready = yield awaited
                if not ready and self._is_too_long(waited_s := time.monotonic() - began_at):
                    raise NoAnswer(f"no answer from Postgres within {waited_s:.0f} s")
                awaited = gen.send(ready)
        except StopIteration as done:
            answer: _Answer = done.value
            return answer

    def _is_too_long(self, waited_s: float) -> bool:
        if self.ended is not None and self.ended.is_set():
            return True
        if self.is_patient:
            waited_s = min(waited_s, self.traffic.silent_s)
        return waited_s > self.answer_s
