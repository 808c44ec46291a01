"""The open connections of a process, bounded by the files that it may have open.

A connection costs a file, and a process that has none left accepts nobody, its health check included.
Beyond the bound the connection is closed that has sent part of a request head for longest; without such,
the one that has been idle for longest. A client that sends its request at once is served, however many
others open connections and send nothing.
"""

from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)

# The fraction of the bound from which on the process is no longer called full: it is logged once, not for
# each connection at the edge.
_RELAXED = 0.9


class Abortable(Protocol):
    """A connection, as far as its bound knows it."""

    def abort(self) -> None:
        """Close at once."""


class Connections:
    def __init__(self, connections_max: int) -> None:
        self.max = connections_max
        self._open: set[Abortable] = set()
        # In the order in which they began to wait.
        self._heads: dict[Abortable, None] = {}
        self._idle: dict[Abortable, None] = {}
        self._is_full = False

    def opened(self, connection: Abortable) -> None:
        """Count a connection, and close another one if they are too many; itself if all are at work."""
        self._open.add(connection)
        if len(self._open) > self.max:
            if not self._is_full:
                why = "the oldest connections without a request are closed; raise `ulimit -n` for more"
                _log.warning("connection limit reached", connections_max=self.max, reason=why)
            self._is_full = True
            victim = next(iter(self._heads or self._idle), connection)
            self.closed(victim)
            victim.abort()

    def closed(self, connection: Abortable) -> None:
        self.works(connection)
        self._open.discard(connection)
        if self._is_full and len(self._open) < self.max * _RELAXED:
            self._is_full = False
            _log.info("connections below the limit again", open=len(self._open))

    def awaits_head(self, connection: Abortable) -> None:
        """The connection has just been opened, or has sent part of a head."""
        self._idle.pop(connection, None)
        if connection in self._open:
            self._heads.setdefault(connection)

    def idles(self, connection: Abortable) -> None:
        """The connection is kept alive between two requests."""
        self._heads.pop(connection, None)
        if connection in self._open:
            self._idle.setdefault(connection)

    def works(self, connection: Abortable) -> None:
        """The connection has a request to be answered, or a body to send."""
        self._heads.pop(connection, None)
        self._idle.pop(connection, None)
