"""What wakes requests and streams that wait: notifications, and a slow poll for what was not heard.

One connection per process listens. A notification names the reservations that have changed; an empty one
means all of them.
"""

import asyncio
from typing import Any, Final

import structlog
from psycopg import AsyncConnection, Error, sql
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from api.reservations.watchers import ReservationWatchers
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
    """Wake subscriptions by notifications until cancelled; a lost connection is made again."""
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    pause_s, reported = _PAUSE_S_MIN, None
    while True:
        try:
            async with await AsyncConnection.connect(conninfo, **_OPTIONS) as connection:
                await connection.execute(_LISTEN)
                await watchers.poll_once()  # for what was rung while nobody listened
                pause_s, reported = _PAUSE_S_MIN, None
                async for notification in connection.notifies():
                    watchers.hear(notification.payload)
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
