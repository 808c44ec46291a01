"""Waiting for the end of a saga without holding a thread or a database connection.

One connection per process listens; what it hears wakes those who wait for the reservations named, and
an empty payload has all of them looked after. A wake-up is a hint: the woken read the reservation, and
wait on if its saga is still open. A slow poll, one query for everybody, makes good whatever is not heard.

A waiter is there before it first reads, so nothing can happen unheard between its reading and waiting.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import structlog
from litestar.concurrency import sync_to_thread
from litestar.params import HeaderParameter
from psycopg import AsyncConnection, Error, sql
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from api.problems import DATABASE_AWAY
from domain.reservations import store
from domain.reservations.model import Reservation, Status
from domain.reservations.store import SETTLED_CHANNEL
from runtime.errors import first_line

POLL_S = 1.0

_LISTEN = sql.SQL("LISTEN {}").format(sql.Identifier(SETTLED_CHANNEL))
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.2, 5.0
_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)', re.IGNORECASE)

_log = structlog.get_logger(__name__)

Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer",
        description="`wait=N`: answer when the rooms have, or after N seconds (RFC 7240).",
    ),
]


class Waiters:
    """Who waits for which reservation. Belongs to the event loop: call it from nowhere else."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._closing = False

    async def ended(self, reservation_id: int, wait_s: float) -> Reservation | None:
        """Return the reservation once its saga has ended, or as it is after `wait_s` seconds.

        None if the database cannot tell: what was accepted stays accepted.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        with self._expecting(reservation_id) as rung, suppress(*DATABASE_AWAY):
            while True:
                rung.clear()
                reservation = await sync_to_thread(self._read, reservation_id)
                if not reservation.status.open or self._closing or not await _heard(rung, deadline):
                    return reservation
        return None

    def wake(self, reservation_ids: Iterable[int]) -> None:
        for reservation_id in reservation_ids:
            for rung in self._waiting.get(reservation_id, ()):
                rung.set()

    async def poll_once(self) -> None:
        """Wake those whose saga has ended unheard."""
        if self._waiting:
            statuses = await sync_to_thread(self._statuses, list(self._waiting))
            self.wake(id_ for id_, status in statuses.items() if not status.open)

    def close(self) -> None:
        """Wake everybody, now and from now on: the process stops."""
        self._closing = True
        self.wake(self._waiting)

    @contextmanager
    def _expecting(self, reservation_id: int) -> Iterator[asyncio.Event]:
        rung = asyncio.Event()
        self._waiting.setdefault(reservation_id, set()).add(rung)
        try:
            yield rung
        finally:
            others = self._waiting[reservation_id]
            others.discard(rung)
            if not others:
                del self._waiting[reservation_id]

    def _read(self, reservation_id: int) -> Reservation:
        with self._engine.connect() as connection:
            reservation = store.get(connection, reservation_id)
        assert reservation is not None, f"reservation {reservation_id} was accepted"
        return reservation

    def _statuses(self, ids: list[int]) -> dict[int, Status]:
        with self._engine.connect() as connection:
            return store.statuses(connection, ids)


async def poll(waiters: Waiters) -> None:
    """Look after those who wait, until cancelled."""
    reported = None
    while True:
        try:
            await waiters.poll_once()
            reported = None
        except SQLAlchemyError as error:  # the next turn finds what this one could not read
            reported = _report("not polling", error, reported)
        await asyncio.sleep(POLL_S)


async def listen(waiters: Waiters, url: str) -> None:
    """Wake whoever is rung for, until cancelled; a lost connection is made again."""
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    pause_s, reported = _PAUSE_S_MIN, None
    while True:
        try:
            async with await _connection(conninfo) as connection:
                await connection.execute(_LISTEN)
                await waiters.poll_once()  # for what was rung while nobody listened
                pause_s, reported = _PAUSE_S_MIN, None
                await _hear(waiters, connection)
        except (Error, OSError, SQLAlchemyError) as error:  # an operator may put right any of these
            reported = _report("not listening", error, reported)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)


def wait_s(prefer: str | None, wait_s_max: float) -> float | None:
    """Read `wait=N` out of a Prefer header, bounded; what we do not understand is no preference."""
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), wait_s_max) if found else None


def _report(event: str, error: Exception, reported: str | None) -> str:
    """Log what is not yet reported; returns what is, so that an outage is one line."""
    reason = first_line(error)
    if reason != reported:
        _log.warning(event, error=reason)
    return reason


async def _heard(rung: asyncio.Event, deadline: float) -> bool:
    """Wait for the ring; tells whether it came in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            return await rung.wait()
    return False


async def _connection(conninfo: str) -> AsyncConnection[tuple[object, ...]]:
    return await AsyncConnection.connect(
        conninfo,
        autocommit=True,
        application_name="innbox-api-waiting",
        connect_timeout=5,
        # Nothing is ever sent on it, so only keepalives notice a peer that has vanished.
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )


async def _hear(waiters: Waiters, connection: AsyncConnection[tuple[object, ...]]) -> None:
    async for notification in connection.notifies():
        if notification.payload:
            waiters.wake(int(word) for word in notification.payload.split(",") if word.isdecimal())
        else:
            await waiters.poll_once()
