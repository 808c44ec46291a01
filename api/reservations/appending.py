"""Appending by the event loop: the topics' limits, known to it, and a doorbell that it rings itself.

It checks a message without asking the database. Like `outbox.Doorbell` its own sends at most one NOTIFY
per interval, after the commit, and a ring that is lost costs latency and never a message. The other one
has a thread, which takes the interpreter's lock from the loop several times a ring: at the API's rate,
a twentieth of it. It shares the pool of the round trips.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import outbox
from outbox import DOORBELL_CHANNEL, Appendable, Doorbell, Pace, UnknownTopic, ValueTooLarge
from runtime.pipeline import PipelinePool

_NOTIFY = text(f"NOTIFY {DOORBELL_CHANNEL}")
_PAUSE_AFTER_FAILURE_S = 1.0


class AsyncDoorbell:
    """Belongs to the event loop: call it from nowhere else."""

    def __init__(
        self, pool: PipelinePool, doorbell: Doorbell, *, interval_ms: float, gather_ms: float
    ) -> None:
        self._pool = pool
        self._doorbell = doorbell
        self._interval_s = interval_ms / 1000
        self._is_rung = False
        self._rings = 0  # since the last NOTIFY
        self._pace = Pace(gather_ms)
        self._ringing: asyncio.Task[None] | None = None

    def ring(self) -> None:
        self._rings += 1
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
            self._pace.count(self._rings)
            self._rings = 0
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
        return max(self._interval_s, self._pace.rest_s())


class TopicLimits:
    """How large a value each declared topic takes. Call it from the event loop alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits: Mapping[str, int] = {}
        self._reading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Read the limits at the start; while the database is away, the first request reads them."""
        with suppress(SQLAlchemyError):
            await self._refresh()

    async def prepare(self, message: Appendable, headers: Mapping[str, str]) -> dict[str, object]:
        """Do as `outbox.prepare` does; before it refuses a message, the limits are read again."""
        try:
            return outbox.prepare(message, self._limits, headers=headers)
        except (UnknownTopic, ValueTooLarge):
            await self._refresh()
        return outbox.prepare(message, self._limits, headers=headers)

    async def _refresh(self) -> None:
        """Read in a thread; requests that come meanwhile wait for the same answer."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        # A client that goes away must not end the reading for the others.
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        self._limits = await asyncio.to_thread(self._declared)

    def _declared(self) -> Mapping[str, int]:
        with self._engine.connect() as connection:
            return outbox.known_topics(connection)
