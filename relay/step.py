"""The relay's step: publish what is committed, make it final, save the cursor.

A message is published at least once: a crash before the cursor is saved publishes again what was
published since the last save, a batch or the small ones of some milliseconds (`may_save_later`); or
exactly once, if messages and cursor become final together (see `relay.publishing.cursor_store`).
First deliveries of a key are in order (see `outbox.reader.difference`).

A refused message is located by bisection: the batch that it was in is read again by halves, each half
that is accepted is saved, until a batch of this one message is refused. Batches then grow again.
"""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Connection

from outbox import reader
from outbox.reader import BlockedKey, Cursor, Shard, ShardBatch
from relay.config import RelayConfig
from relay.metrics import BATCHES, PUBLISHED, oldest_unpublished
from relay.publishing.cursor_store import Publisher
from relay.publishing.errors import KeepWaiting, PublishRefused
from relay.publishing.kafka_cursors import Progress
from relay.publishing.producer import Row

# How long blocked keys may have to wait while there is always something to publish.
STEP_S = 0.5

# Two batches and the producer's queue are in memory at a time, for each shard.
_BATCH_BYTES_MAX = 32_000_000
_SAMPLE_EVERY = 16

# A message that was being published at so many crashes of a relay is taken for their cause.
CRASHES_MAX = 3


@dataclass(frozen=True, slots=True)
class RefusedBatch:
    """A batch of which the brokers refused a message, and why; nothing of it was recorded."""

    batch: ShardBatch
    reason: str

    @property
    def is_single(self) -> bool:
        """Whether it is known which message it is: the only one, and the last that the cursor covers."""
        return [row[0] for row in self.batch.rows] == [self.batch.cursor.position]

    @property
    def half(self) -> int:
        return max(1, len(self.batch.rows) // 2)


@dataclass(frozen=True, slots=True)
class Relayed:
    """One step's result: the shard with its cursor moved, and how many messages were published.

    After a refusal the publisher is of no more use. `is_done` if nothing was left to publish, and
    `is_unsaved` if the last that was published lies beyond the saved cursor (see `may_save_later`).
    """

    shard: Shard
    messages: int
    refusal: RefusedBatch | None = None
    is_done: bool = False
    is_unsaved: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What the owner of a shard publishes with, step after step."""

    connection: Connection
    publisher: Publisher
    config: RelayConfig
    keep_waiting: KeepWaiting


class BatchReader:
    """Reads one batch of a shard after the other.

    Batches grow up to the configured chunk, or to what fits into memory. If it was the doorbell that
    called, a batch that is not full is the last: whatever has been committed since rings again.
    """

    def __init__(self, work: Work, shard: Shard, *, limit: int, was_rung: bool) -> None:
        self._work = work
        self._hashes = shard.hashes
        self._was_rung = was_rung
        self.limit = limit

    def read(self, cursor: Cursor) -> ShardBatch:
        return reader.read(self._work.connection, cursor, self._hashes, limit=self.limit)

    def read_after(self, batch: ShardBatch) -> ShardBatch:
        self.limit = min(self.limit * 2, self._work.config.chunk, _bearable(batch.rows))
        if self._was_rung and not batch.cursor.batch_snapshot:
            return ShardBatch([], batch.cursor)
        return self.read(batch.cursor)


def relay_once(
    work: Work,
    shard: Shard,
    *,
    limit: int | None = None,
    excluding: Collection[str] = frozenset(),
    was_rung: bool = False,
) -> Relayed:
    """Publish what has been committed since the shard's cursor, until nothing is left.

    `limit` is that of the first batch. Messages of the excluded keys are left where they are; the cursor
    goes on, and the step ends soon, so that the caller can look after these keys.
    """
    messages, lease_s, is_unsaved = 0, work.config.lease_s, False
    batches = BatchReader(work, shard, limit=limit or work.config.chunk, was_rung=was_rung)
    batch = batches.read(shard.cursor)
    ends_at = time.monotonic() + (STEP_S if excluding else math.inf)
    while batch.rows and work.keep_waiting():
        oldest_unpublished(shard.id, _age_s(batch.rows[0]))
        rows = to_publish(batch, excluding)
        try:
            following = publish(work, shard, batches, batch, rows)
        except PublishRefused as refused:
            refusal = RefusedBatch(batch, refused.reason)
            return Relayed(shard, messages, refusal, is_unsaved=is_unsaved)
        is_unsaved = was_rung and may_save_later(work, shard, batches, batch)
        if is_unsaved:
            shard = replace(shard, cursor=batch.cursor)
        else:
            shard = reader.save(work.connection, shard, batch.cursor, lease_s=lease_s)
        messages += len(rows)
        PUBLISHED.inc(len(rows))
        BATCHES.inc()
        batch = following
        if time.monotonic() > ends_at:
            break
    if batch.rows:  # asked to stop, or to come to an end
        return Relayed(shard, messages, is_unsaved=is_unsaved)
    oldest_unpublished(shard.id, None)
    if shard.cursor.batch_snapshot:
        # Saved, or the end of a backlog that filled its last batch would not count as relayed.
        shard = reader.save(work.connection, shard, batch.cursor, lease_s=lease_s)
    moved = replace(shard, cursor=batch.cursor)
    return Relayed(moved, messages, is_done=True, is_unsaved=is_unsaved)


def may_save_later(work: Work, shard: Shard, batches: BatchReader, batch: ShardBatch) -> bool:
    """Tell whether the cursor may be saved with that of a later batch: `gather_ms` later at most.

    A crash publishes again what was published since the last save. Not in exactly-once mode, where
    Postgres may be one step behind Kafka; not in a backlog, nor while a message is published alone.
    """
    saved = shard.saved
    is_of_moments = batches.limit > 1 and not batch.cursor.batch_snapshot
    is_recent = (
        saved is not None and batch.cursor.read_at - saved.read_at < work.config.gather_ms / 1000
    )
    return work.config.mode == "at-least-once" and is_of_moments and is_recent


def publish(
    work: Work, shard: Shard, batches: BatchReader, batch: ShardBatch, rows: Sequence[Row]
) -> ShardBatch:
    """Publish rows of a batch and make them final; returns the next batch, which is read meanwhile.

    Raises `PublishRefused`; nothing is final then.
    """
    waiting = work.keep_waiting
    if batches.limit == 1 and rows:
        waiting = _guarded(work, shard, rows[0])
    work.publisher.producer.enqueue(rows, waiting)
    following = batches.read_after(batch)
    work.publisher.cursors.commit(Progress(batch.cursor), waiting)
    return following


def retry_once(work: Work, shard: Shard, blocked: BlockedKey, *, limit: int) -> Relayed:
    """Publish the next of a blocked key's messages, up to where its shard is.

    Done is the key that stands there: if that is no place within a backlog, it is blocked no more.
    """
    place = blocked.cursor
    if place.batch_snapshot is None:  # else it is within a batch already
        place = reader.bounded_by(work.connection, place, shard.cursor)
    batch = reader.read_key(work.connection, place, shard.hashes, blocked.key, limit=limit)
    cursor = replace(shard.cursor, number=shard.cursor.number + 1)
    if batch.rows:
        waiting = work.keep_waiting
        try:
            if limit == 1:
                waiting = _guarded(work, shard, batch.rows[0], key=blocked.key)
            work.publisher.producer.enqueue(batch.rows, waiting)
            progress = Progress(cursor, blocked.key, batch.cursor)
            work.publisher.cursors.commit(progress, waiting)
        except PublishRefused as refused:
            return Relayed(shard, 0, RefusedBatch(batch, refused.reason))
        PUBLISHED.inc(len(batch.rows))
    moved = replace(blocked, cursor=batch.cursor)
    lease_s = work.config.lease_s
    shard = reader.save_key(work.connection, shard, cursor, moved, lease_s=lease_s)
    has_arrived = batch.cursor.ends_at == cursor.ends_at
    is_done = batch.cursor.batch_snapshot is None and has_arrived
    return Relayed(shard, len(batch.rows), is_done=is_done)


def to_publish(batch: ShardBatch, excluding: Collection[str]) -> list[Row]:
    """Return the messages of a batch but for those of the excluded keys."""
    if not excluding:
        return batch.rows
    # A row's third column is its key.
    return [row for row in batch.rows if row[2] not in excluding]


def _bearable(rows: Sequence[Row]) -> int:
    """Return how many messages like these, by a sample, the next batch may have."""
    sample = rows[::_SAMPLE_EVERY]
    value_bytes = sum(len(value) for _, _, _, value, *_ in sample) // len(sample)
    return max(1, _BATCH_BYTES_MAX // (value_bytes + 1))


def _guarded(work: Work, shard: Shard, row: Row, *, key: str | None = None) -> KeepWaiting:
    """Mark the message that is about to be published alone, so that it is known if it kills the relay.

    `key` is that of a blocked key which is retried. Returns how to wait for the message: a relay that
    waits for it was not killed, and takes the mark away.
    """
    position, topic, its_key, *_ = row
    crashes = reader.mark_in_flight(work.connection, shard, position, key=key)
    if crashes > CRASHES_MAX:
        crashed = f"the relay crashed {CRASHES_MAX} times in a row while publishing this message"
        raise PublishRefused(topic, its_key, crashed)

    def waiting() -> bool:
        reader.clear_in_flight(work.connection, shard)
        return work.keep_waiting()

    return waiting


def _age_s(row: Row) -> float:
    """Tell how long ago a row was appended; of a batch the first row waits longest."""
    try:
        appended_at = datetime.fromisoformat(reader.decode_headers(row[4])["ce_time"])
        return (datetime.now(UTC) - appended_at).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 0  # a writer that is not `append` may leave the time out, or write it otherwise
