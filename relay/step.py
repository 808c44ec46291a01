"""The relay's step: publish what is committed, make it final, save the cursor.

A message is published at least once: a crash before the cursor is saved publishes the reading again; or
exactly once, if the publisher makes messages and cursor final together (see `relay.publishing`).
First deliveries of a key are in order (see `outbox.reader.difference`).

A refused message is closed in upon: the reading that it was in is read again by halves, each half that is
accepted is saved, until a reading of this one message is refused. Readings then grow again.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from outbox import reader
from outbox.reader import BlockedKey, Cursor, Reading, Shard
from relay.config import RelayConfig
from relay.metrics import BATCHES, PUBLISHED, in_hand
from relay.publishing.errors import PublishRefused
from relay.publishing.kafka_cursors import Place
from relay.publishing.producer import Publisher

# How long blocked keys may have to wait while there is always something to publish.
STEP_S = 0.5

# Two readings and the producer's queue are in memory at a time, for each shard.
_READING_BYTES_MAX = 32_000_000
_SAMPLE_EVERY = 16

# A message in hand at so many deaths of a relay is taken for their cause.
TOUCHES_MAX = 3


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reading of which the brokers refused a message, and why; nothing of it was recorded."""

    reading: Reading
    reason: str

    @property
    def is_of_one(self) -> bool:
        """Whether it is known which message it is: the only one, and the last that the cursor covers."""
        return [row[0] for row in self.reading.rows] == [self.reading.cursor.position]

    @property
    def half(self) -> int:
        return max(1, len(self.reading.rows) // 2)


@dataclass(frozen=True, slots=True)
class Relayed:
    """One step's result: the shard with its cursor moved, and how many messages were published.

    After a refusal the publisher is of no more use. `is_done` if nothing was left to publish.
    """

    shard: Shard
    messages: int
    refusal: Refusal | None = None
    is_done: bool = False


def relay_once(
    connection: Connection,
    shard: Shard,
    publisher: Publisher,
    config: RelayConfig,
    keep_waiting: Callable[[], bool],
    *,
    limit: int | None = None,
    passing_over: Collection[str] = frozenset(),
    was_rung: bool = False,
) -> Relayed:
    """Publish what has been committed since the shard's cursor, until nothing is left.

    The next reading is made while the brokers acknowledge the last, so neither side waits for the other.
    `limit` is that of the first reading; later ones grow up to the configured chunk. Messages of the
    keys to pass over are left where they are; the cursor goes on, and the step ends soon, so that who
    waits for these keys can look after them. If it was the bell that called, a reading that found less
    than its limit is the last: whatever has been committed since rings again.
    """
    messages, limit = 0, limit or config.chunk
    reading = reader.read(connection, shard.cursor, shard.hashes, limit=limit)
    ends_at = time.monotonic() + (STEP_S if passing_over else math.inf)
    while reading.rows and keep_waiting():
        in_hand(shard.id, _age_s(reading.rows[0]))
        rows, waiting = to_publish(reading, passing_over), keep_waiting
        try:
            if limit == 1 and rows:
                waiting = _touching(connection, shard, rows[0], keep_waiting)
            publisher.enqueue(rows, waiting)
            limit = min(limit * 2, config.chunk, _bearable(reading.rows))
            ahead = Reading([], reading.cursor)
            if reading.cursor.batch_snapshot or not was_rung:
                ahead = reader.read(connection, reading.cursor, shard.hashes, limit=limit)
            publisher.commit(Place(reading.cursor), waiting)
        except PublishRefused as refused:
            return Relayed(shard, messages, Refusal(reading, refused.reason))
        shard = reader.save(connection, shard, reading.cursor, lease_s=config.lease_s)
        messages += len(rows)
        PUBLISHED.inc(len(rows))
        BATCHES.inc()
        reading = ahead
        if time.monotonic() > ends_at:
            break
    if reading.rows:  # asked to stop, or to come to an end
        return Relayed(shard, messages)
    in_hand(shard.id, None)
    if shard.cursor.batch_snapshot:
        # Saved, or the end of a backlog that filled its last reading would not count as relayed.
        shard = reader.save(connection, shard, reading.cursor, lease_s=config.lease_s)
    return Relayed(replace(shard, cursor=reading.cursor), messages, is_done=True)


def retry_once(
    connection: Connection,
    shard: Shard,
    publisher: Publisher,
    blocked: BlockedKey,
    config: RelayConfig,
    keep_waiting: Callable[[], bool],
    *,
    limit: int,
) -> Relayed:
    """Publish the next of a blocked key's messages, up to where its shard is.

    Done is the key that stands there: if that is no place within a backlog, it is blocked no more.
    """
    place = _batch_of(connection, blocked.cursor, shard.cursor)
    reading = reader.read_key(connection, place, shard.hashes, blocked.key, limit=limit)
    cursor = replace(shard.cursor, number=shard.cursor.number + 1)
    if reading.rows:
        waiting = keep_waiting
        try:
            if limit == 1:
                row = reading.rows[0]
                waiting = _touching(connection, shard, row, keep_waiting, key=blocked.key)
            publisher.enqueue(reading.rows, waiting)
            publisher.commit(Place(cursor, blocked.key, reading.cursor), waiting)
        except PublishRefused as refused:
            return Relayed(shard, 0, Refusal(reading, refused.reason))
        PUBLISHED.inc(len(reading.rows))
    moved = replace(blocked, cursor=reading.cursor)
    shard = reader.save_key(connection, shard, cursor, moved, lease_s=config.lease_s)
    has_arrived = reading.cursor.ends_at == cursor.ends_at
    is_done = reading.cursor.batch_snapshot is None and has_arrived
    return Relayed(shard, len(reading.rows), is_done=is_done)


def block(connection: Connection, shard: Shard, refusal: Refusal) -> None:
    """Block the key of the one message that was refused."""
    (row,), cursor = refusal.reading.rows, refusal.reading.cursor
    reader.block_key(connection, shard, cursor, row[0], refusal.reason)


def to_publish(reading: Reading, passing_over: Collection[str]) -> list[tuple[Any, ...]]:
    """Return the messages of a reading but for those of the keys to pass over."""
    if not passing_over:
        return reading.rows
    return [row for row in reading.rows if row[2] not in passing_over]


def _bearable(rows: Sequence[tuple[Any, ...]]) -> int:
    """Return how many messages like these, by a sample, the next reading may have."""
    sample = rows[::_SAMPLE_EVERY]
    value_bytes = sum(len(row[3]) for row in sample) // len(sample)
    return max(1, _READING_BYTES_MAX // (value_bytes + 1))


def _touching(
    connection: Connection,
    shard: Shard,
    row: tuple[Any, ...],
    keep_waiting: Callable[[], bool],
    *,
    key: str | None = None,
) -> Callable[[], bool]:
    """Mark the message that is about to be published alone, so that it is known if it kills the relay.

    `key` is that of a blocked key which is retried. Returns how to wait for the message: who lives to
    wait was not killed, and takes the mark away.
    """
    touches = reader.mark_in_flight(connection, shard, row[0], key=key)
    if touches > TOUCHES_MAX:
        died = f"a relay that has it in hand dies; it happened {TOUCHES_MAX} times in a row"
        raise PublishRefused(row[1], row[2], died)

    def waiting() -> bool:
        reader.clear_in_flight(connection, shard)
        return keep_waiting()

    return waiting


def _batch_of(connection: Connection, cursor: Cursor, end: Cursor) -> Cursor:
    """Return the batch that a key is in, or else the one from there to where its shard is."""
    if cursor.batch_snapshot is not None:
        return cursor
    return reader.bounded_by(connection, cursor, end)


def _age_s(row: tuple[Any, ...]) -> float:
    """Tell how long ago a row was appended; for a reading's first row, it waits longest."""
    try:
        appended_at = datetime.fromisoformat(reader.decode_headers(row[4])["ce_time"])
        return (datetime.now(UTC) - appended_at).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 0  # a writer that is not `append` may leave the time out, or write it otherwise
