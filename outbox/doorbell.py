"""The doorbell: a wake-up after commit, off the write path.

NOTIFY inside a write transaction takes a lock at commit that all the database's writers share, and
halves their throughput. So `append` only marks its connection. When the connection returns to its pool,
which is after the commit, a thread sends at most one NOTIFY per interval on a connection of its own. A
lost ring costs latency, never a message: a relay that waits for the bell also polls. That holds, too,
for a writer that keeps its connection from one transaction to the next.
"""

import logging
from collections.abc import Iterable, Iterator
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from outbox.pacing import Pace

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # which cannot be imported without greenlet

DOORBELL_CHANNEL = "outbox"

INTERVAL_MS = 3.0
GATHER_MS = 25.0

_MARK = "outbox.rings"
_PAYLOAD_BYTES_MAX = 7_900  # Postgres takes less than 8,000
_PAUSE_AFTER_FAILURE_S = 1.0

_log = logging.getLogger(__name__)


def mark(connection: Connection) -> None:
    """Have the doorbell rung when this connection is back in its pool."""
    connection.info[_MARK] = True


def install_doorbell(
    engine: "Engine | AsyncEngine",
    *,
    interval_ms: float = INTERVAL_MS,
    gather_ms: float = GATHER_MS,
) -> "Doorbell":
    """Ring for every append made through this engine, Core or ORM; close the doorbell at the end.

    It rings when the connection is back in its pool, at most once per interval; where appends are many,
    at most once per `gather_ms`.
    """
    engine = engine if isinstance(engine, Engine) else engine.sync_engine
    doorbell = Doorbell(engine, DOORBELL_CHANNEL, interval_ms=interval_ms, gather_ms=gather_ms)

    # `checkin` fires after the commit; the engine's `commit` event fires before it.
    @event.listens_for(engine, "checkin")
    def ring(_dbapi_connection: object, record: Any) -> None:  # noqa: ANN401 - a pool's internal type
        if record.info.pop(_MARK, False):
            doorbell.ring()

    return doorbell


class Doorbell:
    """Sends coalesced NOTIFYs on one channel from one thread, which starts at the first ring."""

    def __init__(
        self,
        engine: Engine,
        channel: str,
        *,
        interval_ms: float = INTERVAL_MS,
        gather_ms: float = GATHER_MS,
    ) -> None:
        self._engine = synchronous(engine)
        self._channel = channel
        self._interval_s = interval_ms / 1000
        self._changed = Condition()
        self._rung = False
        self._rings = 0  # since the last NOTIFY
        self._pace = Pace(gather_ms)
        self._words: set[str] = set()
        self._is_failing = False
        self._ending = Event()
        self._thread: Thread | None = None

    def ring(self, words: Iterable[object] = ()) -> None:
        """Wake the listeners soon; `words` (ids, say) reach them joined by commas."""
        with self._changed:
            self._words.update(map(str, words))
            self._rings += 1
            # A thread does not survive a fork of its process.
            is_alive = self._thread is not None and self._thread.is_alive()
            if self._rung and is_alive:
                return  # to wake it again would take the processor from the writers
            self._rung = True
            if not self._ending.is_set() and not is_alive:
                self._thread = Thread(
                    target=self._run, name=f"doorbell-{self._channel}", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Send what was rung and end the thread."""
        with self._changed:
            self._ending.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        connection: Connection | None = None
        while (payloads := self._next()) is not None:
            connection = self._send(connection, payloads)
            # Further rings gather, unless the end has come.
            self._ending.wait(self._rest_s() if connection else _PAUSE_AFTER_FAILURE_S)
        _close(connection)

    def _rest_s(self) -> float:
        return max(self._interval_s, self._pace.rest_s())

    def _send(self, connection: Connection | None, payloads: list[str]) -> Connection | None:
        """Notify, and return the connection to use next time; None if the database is away.

        Listeners poll, so the rings of an outage may be forgotten. A connection that was cut while
        nobody rang is no outage: a new one is tried at once.
        """
        is_new = connection is None
        try:
            connection = connection or _own_connection(self._engine)
            # The driver itself: several hundred rings a second share the processor with the writers.
            cursor = connection.connection.cursor()
            for payload in payloads:
                if payload:
                    cursor.execute("SELECT pg_notify(%s, %s)", (self._channel, payload))
                else:
                    cursor.execute(f"NOTIFY {self._channel}")
        except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            _close(connection)
            if not is_new:
                return self._send(None, payloads)
            self._report(error)
            return None
        self._report(None)
        return connection

    def _report(self, error: Exception | None) -> None:
        """Log the first of several failures, and the end of them."""
        if error and not self._is_failing:
            reason = str(error).strip().partition("\n")[0]  # the other lines quote the statement
            _log.warning("the doorbell %s fails; readers poll: %s", self._channel, reason)
        elif self._is_failing and not error:
            _log.info("the doorbell %s rings again", self._channel)
        self._is_failing = error is not None

    def _next(self) -> list[str] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._rung or self._ending.is_set())
            if not self._rung:
                return None
            words, self._words, self._rung = self._words, set(), False
            self._pace.count(self._rings)
            self._rings = 0
        return list(_joined(sorted(words)))


def synchronous(engine: Engine) -> Engine:
    """The engine, or for an asynchronous one, which a thread cannot use, one to the same database."""
    if not engine.dialect.is_async:
        return engine
    return create_engine(engine.url.set(drivername="postgresql+psycopg"), poolclass=NullPool)


def _own_connection(engine: Engine) -> Connection:
    """Take a connection away from the pool for good, so that waiting writers do not miss it."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    connection.detach()
    return connection


def _close(connection: Connection | None) -> None:
    """Close a connection that its pool has forgotten.

    Not by `close`: SQLAlchemy rolls back first, and logs a traceback if the connection was cut.
    """
    if connection is not None:
        detached = connection.connection.dbapi_connection
        assert detached is not None, "only this function invalidates"
        detached.close()
        connection.invalidate()


def _joined(words: list[str]) -> Iterator[str]:
    payload = ""
    for word in words:
        if payload and len(payload) + 1 + len(word) > _PAYLOAD_BYTES_MAX:
            yield payload
            payload = word
        else:
            payload = f"{payload},{word}" if payload else word
    yield payload
