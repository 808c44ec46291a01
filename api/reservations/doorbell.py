"""The doorbell, rung by the event loop: for what is appended there.

Like `outbox.Doorbell` it sends at most one NOTIFY per interval, after the commit, and a ring that is lost
costs latency and never a message. The other one has a thread, which takes the interpreter's lock from the
loop several times a ring: of the API's rate that is a twentieth. It shares the pool of the round trips.
"""

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox import DOORBELL_CHANNEL, Doorbell
from runtime.pipeline import PipelinePool

_NOTIFY = text(f"NOTIFY {DOORBELL_CHANNEL}")
_PAUSE_AFTER_FAILURE_S = 1.0


class AsyncDoorbell:
    """Belongs to the event loop: call it from nowhere else."""

    def __init__(self, pool: PipelinePool, doorbell: Doorbell, *, interval_ms: float) -> None:
        self._pool = pool
        self._doorbell = doorbell
        self._interval_s = interval_ms / 1000
        self._is_rung = False
        self._ringing: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Wake the listeners soon."""
        self._is_rung = True
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.create_task(self._ring())

    def close(self) -> None:
        """Leave what was rung to the doorbell with the thread, which is closed after this one."""
        if self._ringing is not None:
            self._ringing.cancel()
        if self._is_rung:
            self._doorbell.ring()

    async def _ring(self) -> None:
        while self._is_rung:
            self._is_rung = False
            await asyncio.sleep(await self._notified())

    async def _notified(self) -> float:
        """Tell the listeners; returns for how long further rings may gather."""
        try:
            await self._pool.execute([(_NOTIFY, {})])
        except PoolTimeout:  # requests have all connections; this ring is sent after them
            self._is_rung = True
            return _PAUSE_AFTER_FAILURE_S
        except SQLAlchemyError:  # listeners poll: the rings of an outage may be forgotten
            return _PAUSE_AFTER_FAILURE_S
        return self._interval_s
