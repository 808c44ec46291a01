"""A lease that is kept from a thread of its own, so that no long reading or waiting loses it.

The thread keeps it only while the relay's loop turns: a relay that hangs loses its shard in the end, and
one whose process is paused loses it at once, since the thread is paused with it.
"""

import time
from threading import Event, Thread
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

import outbox
from outbox import LeaseLost, Shard
from runtime.errors import first_line
from runtime.health import Health

_log = structlog.get_logger(__name__)

# The loop turns about twice a second, but for the first reading of a backlog of 100 million or so.
_HANGING_S = 600.0


class Lease:
    """Renews a shard's lease for the length of a block; while it does, the relay is alive."""

    def __init__(self, engine: Engine, shard: Shard, health: Health, *, lease_s: float) -> None:
        self._engine = engine
        self._shard = shard
        self._health = health
        self._lease_s = lease_s
        self._lost: LeaseLost | None = None
        self._turned_at = time.monotonic()
        self._ended = Event()
        self._thread = Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Say that the loop has turned; raises `LeaseLost` once it is not kept any more."""
        self._turned_at = time.monotonic()
        if self._lost:
            raise self._lost

    def _keep(self) -> None:
        connection: Connection | None = None
        while not self._ended.wait(self._lease_s / 3) and not self._lost:
            if time.monotonic() - self._turned_at > _HANGING_S:
                _log.error("the relay hangs and loses its lease", shard=self._shard.id)
                self._lost = LeaseLost(self._shard.id, self._shard.epoch)  # should it ever go on
                break
            self._health.beat()
            connection = self._renew(connection)
        if connection:
            connection.close()

    def _renew(self, connection: Connection | None) -> Connection | None:
        """Renew, and return the connection for the next time; None if it broke."""
        try:
            connection = connection or self._engine.connect()
            outbox.renew(connection, self._shard, lease_s=self._lease_s)
        except LeaseLost as error:
            self._lost = error
        except SQLAlchemyError as error:  # the loop meets the same outage, and reports it
            _log.debug("the lease was not renewed", reason=first_line(error))
            if connection:
                connection.close()
            return None
        return connection
