"""What the route of bulk uploads works with, and how its uploads learn that the process stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from threading import Event

from sqlalchemy import Engine

# How long the rest of a body may take when the process stops: enough to read past one that comes quickly,
# so that its client is still there to read the answers.
LINGER_S = 2.0


class BrokenOff(Exception):
    """The process stops, and the body has not ended in time."""


class ActiveUploads:
    """The uploads under way. Belongs to the event loop, but for `stop`, which their threads look at."""

    def __init__(self) -> None:
        self.stop = Event()
        self._ends_at: float | None = None
        self._waits: set[asyncio.Timeout] = set()

    def close(self) -> None:
        """End them all, now and from now on: the process stops."""
        self._ends_at = asyncio.get_running_loop().time() + LINGER_S
        self.stop.set()
        for wait in self._waits:
            wait.reschedule(self._ends_at)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait, for the length of a block, for more of a body; raises `BrokenOff`."""
        try:
            async with asyncio.timeout_at(self._ends_at) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError as error:
            raise BrokenOff from error


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The rooms' database, the uploads under way, and the bounds."""

    engine: Engine
    uploads: ActiveUploads
    answers_bytes_max: int
