"""The worker of a shard: one thread that relays it until it is told to stop, loses it, or fails.

claimed ──resume──► relaying ──publish, save, wait for the bell──► relaying
                       ├──stop: finish the present batch──► released
                       └──lease lost, outage, broken rule────► given up, with the error
"""

import time
from contextlib import suppress
from dataclasses import replace
from random import shuffle
from threading import Event, Thread

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from innbox_process.database import be_patient
from innbox_process.health import Health
from outbox import Pace, reader
from outbox.reader import BlockedKey, LeaseLost, Shard
from relay import metrics
from relay.config import RelayConfig
from relay.publishing.cursor_store import publisher_for, shard_part
from relay.publishing.errors import Abandoned
from relay.step import STEP_S, Relayed, Work, relay_once, retry_once

_log = structlog.get_logger(__name__)

_POLL_S_MIN = 0.05
_WAIT_STEP_S = 0.5  # how long a stop may go unseen
_RECORD_S = 30.0


class ShardWorker(Thread):
    """One shard, in the thread that relays it."""

    def __init__(
        self, engine: Engine, shard: Shard, config: RelayConfig, health: Health, stop_all: Event
    ) -> None:
        super().__init__(name=shard_part(shard))
        self.shard = shard
        self.error: Exception | None = None
        self.turned_at = time.monotonic()
        self._engine = engine
        self._config = config
        self._health = health
        self._is_asked_to_stop = False
        self._stop_all = stop_all
        self._is_lost = False
        self._limit = 1
        self._recorded_at = time.monotonic()
        self._is_unsaved = False  # published beyond the saved cursor
        self._blocked: list[BlockedKey] = []
        self._pace = Pace(config.gather_ms)

    def stop(self) -> None:
        """Have the present batch finished and the shard released."""
        self._is_asked_to_stop = True

    def lose(self) -> None:
        """Say that the lease is not kept any more: nothing further is to be written."""
        self._is_lost = True

    @property
    def is_stopping(self) -> bool:
        return self._is_asked_to_stop or self._stop_all.is_set()

    def forget(self) -> None:
        """Drop what was said of the shard."""
        self._health.forget(self.name)

    def say(self, part: str, problem: str) -> bool:
        """Say why the shard is not relayed; returns whether that is news."""
        return self._health.unwell(part, problem, of=self.name)

    def run(self) -> None:
        """Relay until the end; how it was is in `error`."""
        try:
            with self._engine.connect() as connection:
                reader.prepare_session(connection)
                be_patient(connection)  # as the session is, which may walk through a long log
                reader.listen(connection)
                self._relay(connection)
                self._save_published(connection)
                # In order only: after any other end the shard may be another's.
                reader.release_shard(connection, self.shard)
                _log.info("shard released", shard=self.shard.id)
        except Exception as error:  # noqa: BLE001 - handed to the caller, which classifies it
            self.error = error
            # The relay did not crash: take the mark off the message that was being published.
            with suppress(SQLAlchemyError), self._engine.connect() as connection:
                reader.clear_in_flight(connection, self.shard)
        finally:
            metrics.forget_shard(self.shard.id)  # another relay counts it

    def _relay(self, connection: Connection) -> None:
        """Relay with one publisher after the other, since a refusal ends one, until the stop."""
        config = self._config
        while self._keep_waiting():
            try:
                with publisher_for(connection, self.shard, config, self._health) as publisher:
                    self.shard = publisher.cursors.resume(self._keep_waiting)
                    self._know_blocked(connection)
                    self._relay_and_wait(Work(connection, publisher, config, self._keep_waiting))
            except Abandoned:
                _log.info("stopped while Kafka is away; nothing is lost", shard=self.shard.id)

    def _relay_and_wait(self, work: Work) -> None:
        """Return at a stop, or once the publisher has met a refusal."""
        poll_s, was_rung = _POLL_S_MIN, False
        while self._keep_waiting():
            relayed = self._relay_once(work, was_rung=was_rung)
            self._pace.count(relayed.messages)
            if not relayed.refusal and self._blocked:
                relayed = self._retry(work, relayed)
            if relayed.refusal:
                return
            poll_s = _POLL_S_MIN if relayed.messages else min(poll_s * 2, self._config.poll_s_max)
            work.publisher.producer.look()
            was_rung = False
            if relayed.is_done:
                self._record(work.connection)
                was_rung = self._rest(work.connection) or self._wait(work.connection, poll_s)

    def _record(self, connection: Connection) -> None:
        """Save, now and then, how far nothing was found: the next owner need not look there again."""
        is_saved = self.shard.saved == self.shard.cursor
        if not is_saved and time.monotonic() - self._recorded_at > _RECORD_S:
            self._recorded_at = time.monotonic()
            self._save(connection)

    def _save_published(self, connection: Connection) -> None:
        """Save what `relay_once` has left for later (see `may_save_later`)."""
        if self._is_unsaved:
            self._save(connection)

    def _save(self, connection: Connection) -> None:
        self._is_unsaved = False
        lease_s = self._config.lease_s
        self.shard = reader.save(connection, self.shard, self.shard.cursor, lease_s=lease_s)

    def _relay_once(self, work: Work, *, was_rung: bool) -> Relayed:
        relayed = relay_once(
            work,
            self.shard,
            limit=self._limit,
            excluding={blocked.key for blocked in self._blocked},
            was_rung=was_rung,
        )
        self.shard, self._limit = relayed.shard, self._config.chunk
        if relayed.messages:
            self._is_unsaved = relayed.is_unsaved
        self._bisect(work.connection, relayed)
        return relayed

    def _retry(self, work: Work, last: Relayed) -> Relayed:
        """Go on with the keys that an operator has decided about, in turns as short as that of one key.

        All keys may have been decided about at once, and the others are not to wait for them.
        """
        self._know_blocked(work.connection)
        retrying = [blocked for blocked in self._blocked if blocked.state == "RETRYING"]
        shuffle(retrying)  # or those behind one that always takes the whole turn would have none
        ends_at = time.monotonic() + STEP_S
        for blocked in retrying:
            relayed = self._retry_key(work, blocked)
            if relayed.refusal:
                return relayed
            last = replace(last, is_done=last.is_done and relayed.is_done)
            if time.monotonic() >= ends_at:
                last = replace(last, is_done=last.is_done and blocked is retrying[-1])
                break
        self._know_blocked(work.connection)
        return last

    def _retry_key(self, work: Work, blocked: BlockedKey) -> Relayed:
        """Publish a key's messages, one at first, up to where its shard is or to a refusal.

        It ends soon in any case, and goes on with the next turn: the other keys are not to wait for it.
        """
        limit, ends_at = 1, time.monotonic() + STEP_S
        while True:
            relayed = retry_once(work, self.shard, blocked, limit=limit)
            self.shard = relayed.shard
            self._bisect(work.connection, relayed)
            has_time = self._keep_waiting() and time.monotonic() < ends_at
            if relayed.refusal or relayed.is_done or not has_time:
                return relayed
            self._know_blocked(work.connection)
            blocked = next(known for known in self._blocked if known.key == blocked.key)
            limit = min(limit * 2, self._config.chunk)

    def _bisect(self, connection: Connection, relayed: Relayed) -> None:
        """After a refusal, block the key if it is known which one it is; else read less."""
        if not (refusal := relayed.refusal):
            return
        if not refusal.is_single:
            self._limit = refusal.half
            return
        ((position, topic, key, *_),) = refusal.batch.rows
        cursor, reason = refusal.batch.cursor, refusal.reason
        reader.block_key(connection, self.shard, cursor, position, reason)
        self._limit = 1
        _log.error("a key is blocked", key=key, topic=topic, position=position, reason=reason)

    def _know_blocked(self, connection: Connection) -> None:
        self._blocked = reader.blocked_keys(connection, self.shard.hashes)
        metrics.blocked(self.shard.id, len(self._blocked))

    def _keep_waiting(self) -> bool:
        self.turned_at = time.monotonic()
        if self._is_lost:
            raise LeaseLost(self.shard.id, self.shard.epoch)
        return not self.is_stopping

    def _rest(self, connection: Connection) -> bool:
        """If the bell rang during the work, let more gather where that pays; tells if it rang."""
        if not reader.wait_for_notify(connection, 0):
            return False
        if rest_s := self._pace.rest_s():
            time.sleep(rest_s)
            reader.wait_for_notify(connection, 0)  # the next batch has what these rang for
        return True

    def _wait(self, connection: Connection, seconds: float) -> bool:
        """Wait for a ring, for so long at most, in steps in which a stop is seen; tells if one came."""
        if self._is_unsaved:
            if reader.wait_for_notify(connection, self._config.gather_ms / 1000):
                return True
            self._save_published(connection)
        ends_at = time.monotonic() + seconds
        while self._keep_waiting() and (left_s := ends_at - time.monotonic()) > 0:
            if reader.wait_for_notify(connection, min(left_s, _WAIT_STEP_S)):
                return True
        return False
