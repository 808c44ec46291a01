"""A pool of connections for the event loop: each transaction is one round trip on one of them.

All other requests work in threads, with the engine's pool. A connection of this pool is taken from that
one for good when it is first needed, and never waits there for a thread.
"""

import asyncio
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Engine, exc

from innbox_process.bounds import Traffic
from runtime.pipeline.roundtrip import Rows, Statement, in_one_round_trip, leave


def _nothing() -> None:
    """Do nothing."""


class PipelinePool:
    """At most `size` connections. Belongs to the event loop: call it from nowhere else."""

    def __init__(
        self,
        engine: Engine,
        traffic: Traffic,
        check: Callable[[], None] = _nothing,
        *,
        size: int,
        timeout_s: float,
        within_s: float,
    ) -> None:
        self._engine = engine
        self._traffic = traffic
        self._check = check
        self._timeout_s = timeout_s
        self._within_s = within_s
        self._free = asyncio.Semaphore(size)
        # The one used last is used next: few busy connections keep the server's processes warm.
        self._idle: list[Connection] = []

    async def execute(
        self, statements: Sequence[Statement], *, after_commit: Callable[[], None] = _nothing
    ) -> list[Rows]:
        """Run statements as one transaction, then call `after_commit`; returns the rows of each.

        Raises what `in_one_round_trip` does, `TimeoutError` of SQLAlchemy if no connection becomes free,
        and what the check raises before anything is sent.
        """
        self._check()
        await self._take_turn()
        try:
            connection = self._idle.pop() if self._idle else await asyncio.to_thread(self._opened)
            try:
                rows = await self._sent(connection, statements)
            finally:
                self._put_back(connection)
        finally:
            self._free.release()
        after_commit()
        return rows

    def close(self) -> None:
        """Close the connections that nobody uses; the others are closed when they come back broken."""
        while self._idle:
            connection = self._idle.pop()
            leave(connection)
            connection.close()

    async def _take_turn(self) -> None:
        """Wait for a connection as long as a thread waits for one of the engine's pool."""
        if not self._free.locked():  # a timer for each request would cost each of them
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            reason = f"no database connection became free within {self._timeout_s:g} s"
            raise exc.TimeoutError(reason) from error

    async def _sent(self, connection: Connection, statements: Sequence[Statement]) -> list[Rows]:
        wait = self._traffic.begin()
        try:
            rows = await in_one_round_trip(connection, statements, within_s=self._within_s)
        finally:
            self._traffic.end(wait)
        self._traffic.answered()
        return rows

    def _opened(self) -> Connection:
        connection = self._engine.connect()
        connection.detach()
        return connection

    def _put_back(self, connection: Connection) -> None:
        if connection.invalidated:
            # What cut one has cut the others: else each of them would fail a request of its own.
            connection.close()
            self.close()
            return
        self._idle.append(connection)
