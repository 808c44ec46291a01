"""Notifications: how a relay hears that there is something to do, without asking in a loop.

A notification only saves time. One that is lost costs no message, since a relay that waits also polls.
"""

from sqlalchemy import Connection, text

from outbox.doorbell import DOORBELL_CHANNEL
from outbox.reader.driver import driver


def listen(connection: Connection, channel: str = DOORBELL_CHANNEL) -> None:
    """Have a connection in autocommit listen to a channel; `wait_for_notify` then waits for it."""
    connection.execute(text(f"LISTEN {channel}"))


def wait_for_notify(connection: Connection, seconds: float) -> bool:
    """Wait at most so long; returns whether a notification came, now or since the last call."""
    return bool(list(driver(connection).notifies(timeout=seconds, stop_after=1)))
