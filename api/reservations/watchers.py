"""Waiting for reservations to change without holding a thread or a database connection.

One connection per process listens; a notification wakes the subscriptions to the reservations that it
names, and an empty one has all of them polled. A wake-up is a hint: the subscriber reads the reservation,
and goes on waiting if it is not what it waits for. A slow poll, one query for all, compares versions and
finds what was not heard.

A subscription exists before it first reads, so no change between its read and its wait is missed.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from litestar.concurrency import sync_to_thread
from psycopg import AsyncConnection, Error, sql
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from api.identity.row_security import ALL_MEMBERS, connection_of
from api.problems import DATABASE_UNAVAILABLE
from domain.reservations import reading, store
from domain.reservations.model import Reservation
from domain.reservations.store import SETTLED_CHANNEL
from innbox_process.errors import first_line

POLL_S = 1.0

_LISTEN = sql.SQL("LISTEN {}").format(sql.Identifier(SETTLED_CHANNEL))
_OPTIONS: Final[dict[str, Any]] = {
    "autocommit": True,
    "application_name": "innbox-api-waiting",
    "connect_timeout": 5,
    # Nothing is ever sent on it, so only keepalives notice a peer that has vanished.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.2, 5.0

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Subscription:
    seen: int = 0
    rung: asyncio.Event = field(default_factory=asyncio.Event)

    async def heard(self, deadline: float) -> bool:
        """Wait to be woken; tells whether it came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                return await self.rung.wait()
        return False


class ReservationWatchers:
    """The subscribers to each reservation. Belongs to the event loop: call it from nowhere else."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._subscriptions: dict[int, set[Subscription]] = {}
        # The process stops, so no request should begin to wait.
        self.closing = False

    async def ended(self, reservation_id: int, wait_s: float) -> Reservation | None:
        """Return the reservation once its saga has ended, or as it is after `wait_s` seconds.

        None if the database cannot tell: what was accepted stays accepted.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        with self.subscribed(reservation_id) as subscription, suppress(*DATABASE_UNAVAILABLE):
            while True:
                subscription.rung.clear()
                reservation = await sync_to_thread(self._read, reservation_id)
                subscription.seen = reservation.version
                if not reservation.status.open or self.closing:
                    return reservation
                if not await subscription.heard(deadline):
                    return reservation
        return None

    async def hear(self, payload: str) -> None:
        """Wake the subscribers to the reservations that a notification names; without any, poll."""
        if payload:
            self.wake(int(word) for word in payload.split(",") if word.isdecimal())
        else:
            await self.poll_once()

    def wake(self, reservation_ids: Iterable[int]) -> None:
        for reservation_id in reservation_ids:
            for subscription in self._subscriptions.get(reservation_id, ()):
                subscription.rung.set()

    async def poll_once(self) -> None:
        """Wake the subscribers that have not seen the current version."""
        if self._subscriptions:
            versions = await sync_to_thread(self._versions, list(self._subscriptions))
            for reservation_id, version in versions.items():
                for subscription in self._subscriptions.get(reservation_id, ()):
                    if subscription.seen < version:
                        subscription.rung.set()

    def close(self) -> None:
        """Wake all, now and from now on: the process stops."""
        self.closing = True
        self.wake(self._subscriptions)

    @contextmanager
    def subscribed(self, reservation_id: int) -> Iterator[Subscription]:
        """Be woken, for the length of a block, by each change of a reservation."""
        subscription = Subscription()
        self._subscriptions.setdefault(reservation_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            others = self._subscriptions[reservation_id]
            others.discard(subscription)
            if not others:
                del self._subscriptions[reservation_id]

    def _read(self, reservation_id: int) -> Reservation:
        # The route has checked whose it is.
        with connection_of(self._engine, ALL_MEMBERS) as connection:
            reservation = store.get(connection, reservation_id)
        assert reservation is not None, f"reservation {reservation_id} was accepted"
        return reservation

    def _versions(self, ids: list[int]) -> dict[int, int]:
        # The routes have checked whose they are.
        with connection_of(self._engine, ALL_MEMBERS) as connection:
            return reading.versions(connection, ids)


async def poll(watchers: ReservationWatchers) -> None:
    reported = None
    while True:
        try:
            await watchers.poll_once()
            reported = None
        except SQLAlchemyError as error:  # the next poll reads what this one could not
            reported = _report("not polling", error, reported)
        await asyncio.sleep(POLL_S)


async def listen(watchers: ReservationWatchers, url: str) -> None:
    """Wake subscribers by notifications until cancelled; a lost connection is made again."""
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    pause_s, reported = _PAUSE_S_MIN, None
    while True:
        try:
            async with await AsyncConnection.connect(conninfo, **_OPTIONS) as connection:
                await connection.execute(_LISTEN)
                await watchers.poll_once()  # for what was rung while nobody listened
                pause_s, reported = _PAUSE_S_MIN, None
                async for notification in connection.notifies():
                    await watchers.hear(notification.payload)
        except (Error, OSError, SQLAlchemyError) as error:  # an operator may fix any of these
            reported = _report("not listening", error, reported)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)


def _report(event: str, error: Exception, reported: str | None) -> str:
    """Log what is not yet reported; returns what is, so that an outage is one line."""
    reason = first_line(error)
    if reason != reported:
        _log.warning(event, error=reason)
    return reason
