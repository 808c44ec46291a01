"""The doorbell, rung by the event loop: for what is appended there.

Like `outbox.Doorbell` it sends at most one NOTIFY per interval, after the commit and on a connection of
its own, and what is lost costs latency and never a message. The other one has a thread, which takes the
interpreter's lock from the loop several times a ring: of the API's rate that is a twentieth.
"""

import asyncio

from litestar.concurrency import sync_to_thread
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from outbox import DOORBELL_CHANNEL, Doorbell
from runtime.roundtrip import in_one_round_trip

_NOTIFY = text(f"NOTIFY {DOORBELL_CHANNEL}")
_PAUSE_AFTER_FAILURE_S = 1.0


class Bell:
    """Belongs to the event loop: call it from nowhere else."""

    def __init__(self, engine: Engine, doorbell: Doorbell, *, interval_ms: float) -> None:
        self._engine = engine
        self._doorbell = doorbell
        self._interval_s = interval_ms / 1000
        self._is_rung = False
        self._ringing: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    def ring(self) -> None:
        """Wake the listeners soon."""
        self._is_rung = True
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.create_task(self._ring())

    def close(self) -> None:
        """Leave what was rung to the doorbell, which is closed after this one."""
        if self._ringing is not None:
            self._ringing.cancel()
        if self._is_rung:
            self._doorbell.ring()
        if self._connection is not None:
            self._connection.close()

    async def _ring(self) -> None:
        while self._is_rung:
            self._is_rung = False
            await asyncio.sleep(await self._notified())

    async def _notified(self) -> float:
        """Tell the listeners; returns for how long further rings may gather."""
        try:
            # Who is cancelled within leaves no connection behind to use.
            connection, self._connection = self._connection, None
            if connection is None:
                connection = await sync_to_thread(self._opened)
            await in_one_round_trip(connection, [(_NOTIFY, {})])
        except SQLAlchemyError:  # listeners poll: the rings of an outage may be forgotten
            return _PAUSE_AFTER_FAILURE_S
        self._connection = connection
        return self._interval_s

    def _opened(self) -> Connection:
        connection = self._engine.connect()
        connection.detach()
        return connection
