"""Lanes: connections on which the event loop itself sends transactions, each in one round trip.

They are the way of the one request that must be fast. All others work in threads, with the pool; a lane's
connection is taken from that pool for good when it is first needed, and never waits there for a thread.
"""

import asyncio
from collections.abc import Callable, Sequence

from litestar.concurrency import sync_to_thread
from sqlalchemy import Connection, Engine, exc

from api.reservations.bell import Bell
from innbox_process.bounds import Traffic
from runtime.roundtrip import Rows, Statement, in_one_round_trip

Prepare = Callable[[Connection], Sequence[Statement]]


class Lanes:
    """As many connections as may be. Belongs to the event loop: call it from nowhere else."""

    def __init__(
        self,
        engine: Engine,
        bell: Bell,
        traffic: Traffic,
        check: Callable[[], None],
        *,
        count: int,
        timeout_s: float,
        within_s: float,
    ) -> None:
        self._engine = engine
        self._bell = bell
        self._traffic = traffic
        self._check = check
        self._timeout_s = timeout_s
        self._within_s = within_s
        self._free = asyncio.Semaphore(count)
        # The one used last is used next: few busy connections keep the server's processes warm.
        self._idle: list[Connection] = []

    async def send(self, prepare: Prepare) -> list[Rows]:
        """Run the statements that `prepare` gives as one transaction, and ring for what it appended.

        Raises what `in_one_round_trip` raises, `TimeoutError` of SQLAlchemy if no lane comes free, and
        what the check does if commits are not confirmed now.
        """
        self._check()
        await self._turn()
        try:
            connection = self._idle.pop() if self._idle else await self._opened(prepare)
            try:
                statements = prepare(connection)
                rows = await self._sent(connection, statements)
            finally:
                self._put_back(connection)
        finally:
            self._free.release()
        self._bell.ring()
        return rows

    async def _sent(self, connection: Connection, statements: Sequence[Statement]) -> list[Rows]:
        wait = self._traffic.begin()
        try:
            rows = await in_one_round_trip(connection, statements, within_s=self._within_s)
        finally:
            self._traffic.end(wait)
        self._traffic.answered()
        return rows

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _turn(self) -> None:
        """Wait for a lane as long as others wait for a connection of the pool."""
        if not self._free.locked():  # a timer for everybody would cost each of them
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise exc.TimeoutError(f"no lane came free in {self._timeout_s:g} s") from error

    async def _opened(self, prepare: Prepare) -> Connection:
        return await sync_to_thread(self._open, prepare)

    def _open(self, prepare: Prepare) -> Connection:
        connection = self._engine.connect()
        connection.detach()
        try:
            prepare(connection)  # it reads which topics there are, and remembers them
            connection.rollback()
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_back(self, connection: Connection) -> None:
        if connection.invalidated:
            # What cut one has cut the others: else each of them would fail a request of its own.
            connection.close()
            self.close()
            return
        if connection.in_transaction():  # a topic was looked up that there is not
            connection.rollback()
        self._idle.append(connection)
