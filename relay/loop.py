"""The relay: claims a shard, publishes what is committed, saves its cursor, and waits for the bell.

    standby ──claim──► owner ──publish, save──► owner ──stop──► released
       ▲                 └──lease lost, database away, message refused──┐
       └────────────────────────────────────────────────────────────────┘

A message is published at least once: a crash before the cursor is saved publishes the reading again.
First deliveries of a key are in order (see `outbox.diff`). A second relay of the same database waits as
a hot standby and takes over when the lease is released or runs out.

A refused message stops its shard until it is accepted. The first reading after a claim is of one message
and each next one twice as long, so retries close in on the refused one and end up repeating nothing else.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import getpid
from threading import Event
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy import Connection, Engine

import outbox
from outbox import LeaseLost, Shard
from relay.lease import Lease
from relay.metrics import BATCHES, IS_OWNER, LEASES_LOST, PUBLISHED, TAKEOVERS, in_hand
from relay.publisher import Abandoned, Publisher, is_kafka_error
from runtime.database import is_conflict, is_outage
from runtime.errors import first_line
from runtime.health import Health
from runtime.settings import Settings

_log = structlog.get_logger(__name__)

_POLL_S_MIN = 0.05
_WAIT_STEP_S = 0.5  # how long a stop may go unseen
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
    *,
    limit: int | None = None,
) -> Relayed:
    """Publish what has been committed since the shard's cursor, until nothing is left.

    A crash before the cursor is saved publishes a reading again: at-least-once. The next reading is
    made while the brokers acknowledge the last, so neither side waits for the other. `limit` is that of
    the first reading; later ones grow up to the settings' chunk.
    """
    messages, limit = 0, limit or settings.relay_chunk
    reading = outbox.read(connection, shard.cursor, shard.hashes, limit=limit)
    while reading.rows and keep_waiting():
        in_hand(_age_s(reading.rows[0]))
        publisher.enqueue(reading.rows, keep_waiting)
        limit = min(limit * 2, settings.relay_chunk)
        ahead = outbox.read(connection, reading.cursor, shard.hashes, limit=limit)
        publisher.flush(keep_waiting)
        shard = outbox.save(connection, shard, reading.cursor, lease_s=settings.lease_s)
        messages += len(reading.rows)
        PUBLISHED.inc(len(reading.rows))
        BATCHES.inc()
        reading = ahead
    if reading.rows:  # asked to stop
        return Relayed(shard, messages)
    in_hand(None)
    if shard.cursor.batch_snapshot:
        # Saved, or the end of a backlog that filled its last reading would not count as relayed.
        shard = outbox.save(connection, shard, reading.cursor, lease_s=settings.lease_s)
    return Relayed(replace(shard, cursor=reading.cursor), messages)


class Relay:
    """The loop around `relay_once`: leases, waiting, and outlasting what goes wrong."""

    def __init__(self, engine: Engine, settings: Settings, health: Health, stop: Event) -> None:
        self._engine = engine
        self._settings = settings
        self._health = health
        self._stop = stop
        # Two relays never share a name, even where every container has the same host and pid.
        self._owner = f"{socket.gethostname()}:{getpid()}:{uuid4().hex[:8]}"

    def run(self) -> None:
        """Relay until asked to stop; then finish the reading in hand and release the shard."""
        backoff_s = _BACKOFF_S_MIN
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                self._serve()
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
            outbox.listen(connection, outbox.RELEASES)
            while not self._stop.is_set():
                self._health.beat()
                shard = outbox.claim(connection, self._owner, lease_s=self._settings.lease_s)
                self._health.well("database")
                if shard:
                    self._own(connection, shard)
                else:
                    in_hand(None)  # what was, is another relay's now
                    self._health.well("kafka")  # a standby asks nothing of the brokers yet
                    self._wait(connection, self._settings.lease_s / 4, self._keep_waiting)

    def _own(self, connection: Connection, shard: Shard) -> None:
        TAKEOVERS.inc()
        IS_OWNER.set(1)
        _log.info("shard claimed", shard=shard.id, epoch=shard.epoch)
        outbox.listen(connection)
        kafka, prefix = self._settings.kafka, self._settings.kafka_prefix
        with Lease(self._engine, shard, self._health, lease_s=self._settings.lease_s) as lease:
            try:
                with Publisher(kafka, self._health, topic_prefix=prefix) as publisher:
                    self._relay_and_wait(connection, shard, publisher, lease)
            except Abandoned:
                _log.info("stopped while kafka is away; nothing is lost")
        # In order only: after any other end the connection may be broken, or the shard another's.
        outbox.release(connection, shard)
        _log.info("shard released", shard=shard.id)

    def _relay_and_wait(
        self, connection: Connection, shard: Shard, publisher: Publisher, lease: Lease
    ) -> None:
        def keep_waiting() -> bool:
            lease.check()
            return self._keep_waiting()

        poll_s, limit = _POLL_S_MIN, 1
        while keep_waiting():
            relayed = relay_once(
                connection, shard, publisher, self._settings, keep_waiting, limit=limit
            )
            shard, limit = relayed.shard, self._settings.relay_chunk
            poll_s = _POLL_S_MIN if relayed.messages else min(poll_s * 2, self._settings.poll_s_max)
            publisher.look()
            self._wait(connection, poll_s, keep_waiting)

    def _keep_waiting(self) -> bool:
        self._health.beat()
        return not self._stop.is_set()

    def _wait(
        self, connection: Connection, seconds: float, keep_waiting: Callable[[], bool]
    ) -> None:
        """Wait for a ring, for so long at most, in steps in which a stop is seen."""
        ends_at = time.monotonic() + seconds
        while keep_waiting() and (left_s := ends_at - time.monotonic()) > 0:
            if outbox.hear(connection, min(left_s, _WAIT_STEP_S)):
                return

    def _report(self, error: Exception) -> None:
        part = "kafka" if is_kafka_error(error) else "database"
        reason = first_line(error)
        if self._health.unwell(part, reason):
            _log.warning("the relay waits", part=part, reason=reason)


def _may_pass(error: Exception) -> bool:
    """Tell what time or an operator puts right from a broken rule, which must crash."""
    return is_kafka_error(error) or is_outage(error) or is_conflict(error)


def _age_s(row: tuple[Any, ...]) -> float:
    """Tell how long ago a row was appended; for a reading's first row, it waits longest."""
    try:
        appended_at = datetime.fromisoformat(outbox.decode_headers(row[4])["ce_time"])
        return (datetime.now(UTC) - appended_at).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 0  # a writer that is not `append` may leave the time out, or write it otherwise
