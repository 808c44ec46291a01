"""The relay's step: publish what is committed, make it final, save the cursor.

A message is published at least once: a crash before the cursor is saved publishes the batch again; or
exactly once, if messages and cursor become final together (see `relay.publishing.cursor_store`).
First deliveries of a key are in order (see `outbox.reader.difference`).

A refused message is located by bisection: the batch that it was in is read again by halves, each half
that is accepted is saved, until a batch of this one message is refused. Batches then grow again.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from outbox import reader
from outbox.reader import BlockedKey, Cursor, Shard, ShardBatch
from relay.config import RelayConfig
from relay.metrics import BATCHES, PUBLISHED, oldest_unpublished
from relay.publishing.errors import PublishRefused
from relay.publishing.kafka_cursors import Progress
from relay.publishing.modes import Publisher

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

    After a refusal the publisher is of no more use. `is_done` if nothing was left to publish.
    """

    shard: Shard
    messages: int
    refusal: RefusedBatch | None = None
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What the owner of a shard publishes with, step after step."""

    connection: Connection
    publisher: Publisher
    config: RelayConfig
    keep_waiting: Callable[[], bool]


class ReadAhead:
    """The batches after a shard's cursor; the next one is read while the brokers acknowledge the last.

    Batches grow up to the configured chunk, or to what fits into memory. If it was the doorbell that
    called, a batch that is not full is the last: whatever has been committed since rings again.
    """

    def __init__(self, work: Work, shard: Shard, *, limit: int, was_rung: bool) -> None:
        self._work = work
        self._hashes = shard.hashes
        self._was_rung = was_rung
        self.limit = limit
        self.batch = self._read(shard.cursor)
        self._next: ShardBatch | None = None

    def read_next(self) -> None:
        """Read the batch after the present one, and keep it."""
        now = self.batch
        self.limit = min(self.limit * 2, self._work.config.chunk, _bearable(now.rows))
        is_over = self._was_rung and not now.cursor.batch_snapshot
        self._next = ShardBatch([], now.cursor) if is_over else self._read(now.cursor)

    def advance(self) -> None:
        """Go on with the batch that was read."""
        assert self._next, "the next batch was read"
        self.batch, self._next = self._next, None

    def _read(self, cursor: Cursor) -> ShardBatch:
        return reader.read(self._work.connection, cursor, self._hashes, limit=self.limit)


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
    messages, lease_s = 0, work.config.lease_s
    ahead = ReadAhead(work, shard, limit=limit or work.config.chunk, was_rung=was_rung)
    ends_at = time.monotonic() + (STEP_S if excluding else math.inf)
    while ahead.batch.rows and work.keep_waiting():
        batch = ahead.batch
        oldest_unpublished(shard.id, _age_s(batch.rows[0]))
        rows = to_publish(batch, excluding)
        try:
            publish(work, shard, ahead, rows)
        except PublishRefused as refused:
            return Relayed(shard, messages, RefusedBatch(batch, refused.reason))
        shard = reader.save(work.connection, shard, batch.cursor, lease_s=lease_s)
        messages += len(rows)
        PUBLISHED.inc(len(rows))
        BATCHES.inc()
        ahead.advance()
        if time.monotonic() > ends_at:
            break
    if ahead.batch.rows:  # asked to stop, or to come to an end
        return Relayed(shard, messages)
    oldest_unpublished(shard.id, None)
    if shard.cursor.batch_snapshot:
        # Saved, or the end of a backlog that filled its last batch would not count as relayed.
        shard = reader.save(work.connection, shard, ahead.batch.cursor, lease_s=lease_s)
    return Relayed(replace(shard, cursor=ahead.batch.cursor), messages, is_done=True)


def publish(work: Work, shard: Shard, ahead: ReadAhead, rows: Sequence[tuple[Any, ...]]) -> None:
    """Publish the rows of the present batch and make them final; read the next batch meanwhile.

    Raises `PublishRefused`; nothing is final then.
    """
    waiting = work.keep_waiting
    if ahead.limit == 1 and rows:
        waiting = _guarded(work, shard, rows[0])
    work.publisher.producer.enqueue(rows, waiting)
    ahead.read_next()
    work.publisher.cursors.commit(Progress(ahead.batch.cursor), waiting)


def retry_once(work: Work, shard: Shard, blocked: BlockedKey, *, limit: int) -> Relayed:
    """Publish the next of a blocked key's messages, up to where its shard is.

    Done is the key that stands there: if that is no place within a backlog, it is blocked no more.
    """
    place = _batch_of(work.connection, blocked.cursor, shard.cursor)
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


def block(connection: Connection, shard: Shard, refusal: RefusedBatch) -> None:
    """Block the key of the one message that was refused."""
    (row,), cursor = refusal.batch.rows, refusal.batch.cursor
    reader.block_key(connection, shard, cursor, row[0], refusal.reason)


def to_publish(batch: ShardBatch, excluding: Collection[str]) -> list[tuple[Any, ...]]:
    """Return the messages of a batch but for those of the excluded keys."""
    if not excluding:
        return batch.rows
    return [row for row in batch.rows if row[2] not in excluding]


def _bearable(rows: Sequence[tuple[Any, ...]]) -> int:
    """Return how many messages like these, by a sample, the next batch may have."""
    sample = rows[::_SAMPLE_EVERY]
    value_bytes = sum(len(row[3]) for row in sample) // len(sample)
    return max(1, _BATCH_BYTES_MAX // (value_bytes + 1))


def _guarded(
    work: Work, shard: Shard, row: tuple[Any, ...], *, key: str | None = None
) -> Callable[[], bool]:
    """Mark the message that is about to be published alone, so that it is known if it kills the relay.

    `key` is that of a blocked key which is retried. Returns how to wait for the message: a relay that
    waits for it was not killed, and takes the mark away.
    """
    crashes = reader.mark_in_flight(work.connection, shard, row[0], key=key)
    if crashes > CRASHES_MAX:
        crashed = f"the relay crashed {CRASHES_MAX} times in a row while publishing this message"
        raise PublishRefused(row[1], row[2], crashed)

    def waiting() -> bool:
        reader.clear_in_flight(work.connection, shard)
        return work.keep_waiting()

    return waiting


def _batch_of(connection: Connection, cursor: Cursor, end: Cursor) -> Cursor:
    """Return the batch that a key is in, or else the one from there to where its shard is."""
    if cursor.batch_snapshot is not None:
        return cursor
    return reader.bounded_by(connection, cursor, end)


def _age_s(row: tuple[Any, ...]) -> float:
    """Tell how long ago a row was appended; of a batch the first row waits longest."""
    try:
        appended_at = datetime.fromisoformat(reader.decode_headers(row[4])["ce_time"])
        return (datetime.now(UTC) - appended_at).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 0  # a writer that is not `append` may leave the time out, or write it otherwise
