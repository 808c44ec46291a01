"""The relay as a whole: it is alive, keeps its leases, and has workers for its share of the shards.

One thread sends heartbeats: each renews the leases of the shards that are held, for as long as their
workers turn, and returns how many shards are this relay's share. With too few it claims free ones. With
too many, or if one is requested by another process, it hands one over, finished and released. A relay
that is killed misses its heartbeats, and after `lease_s` its shards are free; one that is paused finds
its leases lost.
"""

import time
from contextlib import suppress
from threading import Event

import structlog
from confluent_kafka import KafkaException
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from innbox_process.backoff import backoff_s
from innbox_process.database import is_cancelled, is_conflict, is_not_migrated, is_outage
from innbox_process.errors import first_line
from innbox_process.health import Health
from outbox import reader
from outbox.reader import Assignment, ForeignCursor, LeaseLost, SequenceBehind
from relay.config import RelayConfig
from relay.metrics import BROKER_LOSSES, LEASES_LOST, SHARDS, TAKEOVERS
from relay.names import a_new_name
from relay.publishing.errors import RecordsLost
from relay.publishing.producer import is_kafka_error, reason_of
from relay.worker import ShardWorker

_log = structlog.get_logger(__name__)

_WAIT_STEP_S = 0.5  # how long a stop may go unseen
_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.2, 10.0
# A thread turns about twice a second, but while it walks through a very long log in vain.
_HANGING_S = 600.0


class Relay:
    """One relay of one database's outbox; `run` is its life."""

    def __init__(self, engine: Engine, config: RelayConfig, health: Health, stop: Event) -> None:
        self._engine = engine
        self._config = config
        self._health = health
        self._stop = stop
        self._name = a_new_name()
        self._held: dict[int, ShardWorker] = {}
        self._failed: dict[int, ShardWorker] = {}
        self._backoff = _Backoff()

    def run(self) -> None:
        """Relay until asked to stop; then finish the present batches and release the shards."""
        try:
            while not self._stop.is_set():
                self._health.beat()
                try:
                    self._serve()
                except Exception as error:  # the loop outlasts what may pass, and says what may not
                    if not _may_pass(error):
                        raise
                    self._report(error)
                    # No longer than a heartbeat: the held shards may be well, and want their leases.
                    self._stop.wait(min(self._backoff.next_s(), self._config.lease_s / 4))
        finally:
            self._finish()

    def _serve(self) -> None:
        with self._engine.connect() as connection:
            reader.listen(connection, reader.SHARD_CHANNEL)
            self._heartbeat(connection)
            reader.join(connection, self._name)
            while not self._stop.is_set():
                self._health.well("database")
                self._health.well("kafka")  # each worker says so for its shard
                self._wait(connection)
                if not self._stop.is_set():
                    self._heartbeat(connection)

    def _heartbeat(self, connection: Connection) -> None:
        """Renew what is held, then take or hand over until it is the share."""
        self._health.beat()
        self._remove_ended()
        epochs = {held.shard.id: held.shard.epoch for held in self._turning()}
        # Who could not take what is its share leaves it to the others.
        is_able = len(epochs) == len(self._held) and not self._backoff.is_on
        standing = reader.heartbeat(
            connection, self._name, epochs, lease_s=self._config.lease_s, is_able=is_able
        )
        for id_ in self._held.keys() - standing.kept:
            self._held[id_].lose()
        self._hand_over(standing)
        if not self._backoff.is_on:
            self._claim(connection, standing)
        SHARDS.set(len(self._held))

    def _turning(self) -> list[ShardWorker]:
        """Return the workers that turn; a shard whose worker hangs loses its lease to another relay."""
        latest = time.monotonic() - _HANGING_S
        for held in self._held.values():
            if held.turned_at < latest and held.say("database", "the thread hangs"):
                _log.error("a shard hangs", shard=held.shard.id)
        return [held for held in self._held.values() if held.turned_at >= latest]

    def _hand_over(self, standing: Assignment) -> None:
        for id_ in standing.wanted:
            self._held[id_].stop()
        staying = [id_ for id_ in standing.kept if not self._held[id_].is_stopping]
        for id_ in staying[standing.share :]:
            self._held[id_].stop()

    def _claim(self, connection: Connection, standing: Assignment) -> None:
        if standing.free and len(self._held) < standing.share:
            reader.check_cluster_identity(connection)
            reader.check_positions(connection)
            while len(self._held) < standing.share and self._claim_one(connection):
                pass
        for failed in self._failed.values():
            failed.forget()  # it is tried elsewhere
        self._failed.clear()

    def _claim_one(self, connection: Connection) -> bool:
        lease_s, holding = self._config.lease_s, self._held.keys()
        shard = reader.claim(connection, self._name, lease_s=lease_s, holding=holding)
        if shard is None:
            return False
        TAKEOVERS.inc()
        held = ShardWorker(self._engine, shard, self._config, self._health, self._stop)
        failed = self._failed.pop(shard.id, None)
        # What kept it from being published counts, and is no news, until something is published.
        if not failed or not failed.error or not is_kafka_error(failed.error):
            held.forget()
            held.say("kafka", "starting")
            _log.info("shard claimed", shard=shard.id, epoch=shard.epoch)
        self._held[shard.id] = held
        held.start()
        return True

    def _remove_ended(self) -> None:
        """Let go of what has ended; raises what ended it and may not pass."""
        for held in [held for held in self._held.values() if not held.is_alive()]:
            del self._held[held.shard.id]
            held.join()
            match held.error:
                case None:
                    held.forget()
                    self._backoff.reset()
                case LeaseLost() as lost:
                    held.forget()
                    LEASES_LOST.inc()
                    _log.warning("lease lost", shard=lost.shard_id, epoch=lost.epoch)
                case error:
                    if not _may_pass(error):
                        raise error
                    self._report(error, held)
                    self._failed[held.shard.id] = held
                    self._backoff.begin()

    def _wait(self, connection: Connection) -> None:
        """Wait until a shard may be free, a worker has ended, or the next heartbeat is due."""
        ends_at = time.monotonic() + self._config.lease_s / 4
        while not self._stop.is_set() and (left_s := ends_at - time.monotonic()) > 0:
            self._health.beat()
            if reader.wait_for_notify(connection, min(left_s, _WAIT_STEP_S)):
                return
            has_ended = any(not held.is_alive() for held in self._held.values())
            if (has_ended or self._failed) and not self._backoff.is_on:
                return

    def _finish(self) -> None:
        self._stop.set()  # also where a broken rule ends us
        with suppress(SQLAlchemyError), self._engine.connect() as connection:
            self._keep_while_finishing(connection)
        for held in self._held.values():
            held.join()
        self._held.clear()
        SHARDS.set(0)
        with suppress(SQLAlchemyError), self._engine.connect() as connection:
            reader.leave(connection, self._name)

    def _keep_while_finishing(self, connection: Connection) -> None:
        """Renew the leases until the present batches have come to their ends."""
        lease_s = self._config.lease_s
        while finishing := [held for held in self._turning() if held.is_alive()]:
            epochs = {held.shard.id: held.shard.epoch for held in finishing}
            reader.heartbeat(connection, self._name, epochs, lease_s=lease_s, is_able=False)
            finishing[0].join(lease_s / 4)

    def _report(self, error: Exception, held: ShardWorker | None = None) -> None:
        part = "kafka" if is_kafka_error(error) else "database"
        reason = reason_of(error) if isinstance(error, KafkaException) else first_line(error)
        is_news = held.say(part, reason) if held else self._health.unwell(part, reason)
        if isinstance(error, RecordsLost):
            BROKER_LOSSES.inc()
            _log.error("brokers have lost acknowledged records", reason=reason)
        elif is_news:
            _log.warning("relay cannot make progress; retrying", part=part, reason=reason)


class _Backoff:
    """Waiting that doubles while things go wrong in quick succession; relays do so out of step."""

    def __init__(self) -> None:
        self._failures = 0
        self._ends_at = 0.0
        self._waited_until = 0.0

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self._ends_at

    def begin(self) -> None:
        self._ends_at = time.monotonic() + self.next_s()

    def next_s(self) -> float:
        now = time.monotonic()
        if now - self._waited_until > _BACKOFF_S_MAX:
            self.reset()
        seconds = backoff_s(self._failures, shortest_s=_BACKOFF_S_MIN, longest_s=_BACKOFF_S_MAX)
        self._failures += 1
        self._waited_until = now + seconds
        return seconds

    def reset(self) -> None:
        self._failures = 0


def _may_pass(error: Exception) -> bool:
    """Tell what time or an operator puts right from a broken rule, which must crash."""
    is_restore = isinstance(error, ForeignCursor | SequenceBehind)
    kinds = (is_outage, is_conflict, is_cancelled, is_not_migrated, is_kafka_error)
    return is_restore or any(is_kind(error) for is_kind in kinds)
