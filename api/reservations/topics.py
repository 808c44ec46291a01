"""The topics' limits, known to the event loop: it checks a message without asking the database."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import outbox
from outbox import Appendable, UnknownTopic, ValueTooLarge


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
