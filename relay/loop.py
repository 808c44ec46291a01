"""The relay: claims a shard, publishes what is committed, saves its cursor, and waits for the bell.

    standby ──claim──► owner ──publish, save──► owner ──stop──► released
       ▲                 └──lease lost, database away──┐
       └───────────────────────────────────────────────┘

A message is published at least once: a crash before the cursor is saved publishes the reading again.
First deliveries of a key are in order (see `outbox.diff`). A second relay of the same database waits as
a hot standby and takes over when the lease is released or runs out.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import getpid
from threading import Event
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, text

import outbox
from outbox import LeaseLost, Shard
from relay.metrics import BATCHES, IS_OWNER, LAG, LEASES_LOST, PUBLISHED, TAKEOVERS
from relay.publisher import Abandoned, Publisher, is_kafka_error
from runtime.database import is_conflict, is_outage
from runtime.health import Health
from runtime.settings import Settings

_log = structlog.get_logger(__name__)

_POLL_S_MIN = 0.05
_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class Relayed:
    """One step's result: the shard with its cursor moved, and how many messages were published."""

    shard: Shard
    messages: int


def relay_once(
    connection: Connection,
    shard: Shard,
    publisher: Publisher,
    settings: Settings,
    keep_waiting: Callable[[], bool],
) -> Relayed:
    """Publish what has been committed since the shard's cursor, until nothing is left.

    A crash before the cursor is saved publishes a reading again: at-least-once. The next reading is
    made while the brokers acknowledge the last, so neither side waits for the other.
    """
    messages = 0
    reading = outbox.read(connection, shard.cursor, shard.hashes, limit=settings.relay_chunk)
    while reading.rows and keep_waiting():
        publisher.enqueue(reading.rows)
        ahead = outbox.read(connection, reading.cursor, shard.hashes, limit=settings.relay_chunk)
        publisher.flush(keep_waiting)
        shard = outbox.save(connection, shard, reading.cursor, lease_s=settings.lease_s)
        messages += len(reading.rows)
        _count(reading.rows)
        reading = ahead
    return Relayed(replace(shard, cursor=reading.cursor) if not reading.rows else shard, messages)


class Relay:
    """The loop around `relay_once`: leases, waiting, and outlasting what goes wrong."""

    def __init__(self, engine: Engine, settings: Settings, health: Health, stop: Event) -> None:
        self._engine = engine
        self._settings = settings
        self._health = health
        self._stop = stop
        self._owner = f"{socket.gethostname()}:{getpid()}"
        self._renewed_at = 0.0

    def run(self) -> None:
        """Relay until asked to stop; then finish the reading in hand and release the shard."""
        backoff_s = _BACKOFF_S_MIN
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                self._serve()
            except Abandoned:
                _log.info("stopped while kafka is away; nothing is lost")
            except LeaseLost as error:
                LEASES_LOST.inc()
                _log.warning("lease lost", shard=error.shard_id, epoch=error.epoch)
            except Exception as error:  # the loop outlasts what may pass, and says what may not
                if not _may_pass(error):
                    raise
                self._report(error)
                if time.monotonic() - started_at > _BACKOFF_S_MAX:
                    backoff_s = _BACKOFF_S_MIN
                self._stop.wait(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S_MAX)
            finally:
                IS_OWNER.set(0)

    def _serve(self) -> None:
        with self._engine.connect() as connection:
            outbox.prepare_session(connection)
            connection.execute(text(f"LISTEN {outbox.CHANNEL}"))
            while not self._stop.is_set():
                self._health.beat()
                shard = outbox.claim(connection, self._owner, lease_s=self._settings.lease_s)
                self._health.well("database")
                if shard is None:
                    self._health.well("kafka")  # a standby asks nothing of the brokers yet
                    self._hear(connection, self._settings.lease_s / 4)
                else:
                    self._own(connection, shard)

    def _own(self, connection: Connection, shard: Shard) -> None:
        TAKEOVERS.inc()
        IS_OWNER.set(1)
        self._renewed_at = time.monotonic()
        _log.info("shard claimed", shard=shard.id, epoch=shard.epoch)
        kafka, prefix = self._settings.kafka, self._settings.kafka_prefix
        with Publisher(kafka, self._health, topic_prefix=prefix) as publisher:
            try:
                self._relay_and_wait(connection, shard, publisher)
            finally:
                if self._stop.is_set():
                    outbox.release(connection, shard)
                    connection.execute(text(f"NOTIFY {outbox.CHANNEL}"))  # standbys listen, too
                    _log.info("shard released", shard=shard.id)

    def _relay_and_wait(self, connection: Connection, shard: Shard, publisher: Publisher) -> None:
        poll_s = _POLL_S_MIN

        def keep_waiting() -> bool:
            self._health.beat()
            self._renew_in_time(connection, shard)
            return not self._stop.is_set()

        while keep_waiting():
            relayed = relay_once(connection, shard, publisher, self._settings, keep_waiting)
            shard = relayed.shard
            poll_s = _POLL_S_MIN if relayed.messages else min(poll_s * 2, self._settings.poll_s_max)
            self._hear(connection, poll_s)

    def _renew_in_time(self, connection: Connection, shard: Shard) -> None:
        """Renew when a third of the lease is over; a paused process learns here that it lost it."""
        if time.monotonic() - self._renewed_at > self._settings.lease_s / 3:
            outbox.renew(connection, shard, lease_s=self._settings.lease_s)
            self._renewed_at = time.monotonic()

    def _hear(self, connection: Connection, seconds: float) -> None:
        """Wait for the doorbell, no longer than this."""
        driver: Any = connection.connection.driver_connection
        for _ in driver.notifies(timeout=seconds, stop_after=1):
            pass

    def _report(self, error: Exception) -> None:
        part = "kafka" if is_kafka_error(error) else "database"
        if self._health.unwell(part, str(error).strip()):
            _log.warning("the relay waits", part=part, reason=str(error).strip())


def _may_pass(error: Exception) -> bool:
    """Tell what time or an operator puts right from a broken rule, which must crash."""
    return is_kafka_error(error) or is_outage(error) or is_conflict(error)


def _count(rows: list[tuple[Any, ...]]) -> None:
    PUBLISHED.inc(len(rows))
    BATCHES.inc()
    if committed_at := rows[-1][4].get("ce_time"):
        LAG.set((datetime.now(UTC) - datetime.fromisoformat(committed_at)).total_seconds())
