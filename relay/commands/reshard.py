"""Resharding: a shard split, or two neighbours merged, while writers write and relays relay.

The command owns a shard while it changes it, and begins as a relay does:

    claimed ──► resumed ──merge: relayed to one snapshot──► replaced, in one transaction
       └──────────┴──────refused, lost, stopped──────┴──► given back, whole

To resume a shard is to lock out a former owner that may still be alive, and to know how far it was, in
Kafka too: what replaces the shard has another id, under which nothing is kept there. Two shards are
merged where they meet, so each is first relayed up to one snapshot. Until the last transaction nothing
has changed but how far the shards are, so this may die anywhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Event

from sqlalchemy import Connection, Engine

from innbox_process.commands import Report
from innbox_process.health import Health
from innbox_process.kafka import quiet_admin
from outbox import admin, reader
from outbox.admin import NotNeighbours
from outbox.reader import Cursor, Shard
from relay.commands.lease import borrowing
from relay.config import RelayConfig
from relay.publishing.cursor_store import Publisher, publisher_for
from relay.publishing.errors import Abandoned, KeepWaiting
from relay.publishing.kafka_cursors import Progress
from relay.step import to_publish

_CONTACT_S = 10.0


def split_shard(
    engine: Engine, config: RelayConfig, stop: Event, shard_id: int, *, into: int, wait_s: float
) -> list[Shard]:
    """Replace a shard by several of equal ranges; returns them in the order of their hashes.

    Raises what `borrowing` and `outbox.admin.split` do, and `KafkaException`. Whatever is raised, the
    shard is as it was.
    """
    with (
        _resumed(engine, config, stop, [shard_id], wait_s) as (work,),
        _transaction(engine) as connection,
    ):
        return admin.split(connection, work.shard, into)


def merge_shards(
    engine: Engine,
    config: RelayConfig,
    stop: Event,
    shard_ids: Sequence[int],
    report: Report,
    *,
    wait_s: float,
) -> Shard:
    """Replace two neighbours, in either order, by one; publishes what lies between their cursors.

    As `split_shard`, and raises `NotNeighbours`, and `PublishRefused` if the brokers refuse a message.
    """
    ids = _neighbours(engine, shard_ids)
    with _resumed(engine, config, stop, ids, wait_s) as (left, right):
        for work in (left, right):
            work.relay_batch(report)
        end = left.now()
        for work in (left, right):
            work.relay_until(end, report)
        with _transaction(engine) as connection:
            return admin.merge(connection, left.shard, right.shard)


@dataclass
class _Work:
    """A borrowed shard, and what it is relayed with."""

    connection: Connection
    config: RelayConfig
    publisher: Publisher
    keep_waiting: KeepWaiting
    shard: Shard

    def now(self) -> Cursor:
        """Return a cursor of this moment; the shard's must have no batch."""
        cursor, hashes = self.shard.cursor, self.shard.hashes
        return reader.read(self.connection, cursor, hashes, limit=1).cursor

    def relay_until(self, end: Cursor, report: Report) -> None:
        """Publish what lies between the shard's cursor, which has no batch, and a later one."""
        batch = reader.bounded_by(self.connection, self.shard.cursor, end)
        self.shard = replace(self.shard, cursor=batch)
        self.relay_batch(report)

    def relay_batch(self, report: Report) -> None:
        """Publish the rest of the batch that the shard's cursor is in, if it is in one."""
        begin = self.shard.cursor.position
        # While the shard is borrowed, no other process blocks a key of it or frees one.
        blocked = {each.key for each in reader.blocked_keys(self.connection, self.shard.hashes)}
        while begin is not None and (position := self.shard.cursor.position) is not None:
            length = max(1, self.shard.cursor.floor - begin)
            report(f"relaying shard {self.shard.id}", min(position - begin, length), length)
            self._relay_part(blocked)

    def _relay_part(self, excluding: set[str]) -> None:
        shard, waiting = self.shard, self.keep_waiting
        if not waiting():
            raise Abandoned
        batch = reader.read_batch(
            self.connection, shard.cursor, shard.hashes, limit=self.config.chunk
        )
        self.publisher.producer.enqueue(to_publish(batch, excluding), waiting)
        self.publisher.cursors.commit(Progress(batch.cursor), waiting)
        lease_s = self.config.lease_s
        self.shard = reader.save(self.connection, shard, batch.cursor, lease_s=lease_s)


@contextmanager
def _resumed(
    engine: Engine, config: RelayConfig, stop: Event, ids: Sequence[int], wait_s: float
) -> Iterator[list[_Work]]:
    """Borrow shards and do what a relay does after a claim.

    No former owner can publish before the block has ended.
    """
    with (
        borrowing(engine, ids, stop, lease_s=config.lease_s, wait_s=wait_s) as borrowed,
        engine.connect() as connection,
        ExitStack() as publishers,
    ):
        reader.prepare_session(connection)
        found = []
        for claimed in borrowed.shards:
            publisher = publishers.enter_context(_publisher(connection, claimed, config))
            shard = publisher.cursors.resume(borrowed.keep_waiting)
            found.append(_Work(connection, config, publisher, borrowed.keep_waiting, shard))
        yield found


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction that is on the disk when it ends.

    A session that is prepared for reading does not wait for the disk. For a cursor that is right; but a
    replacement that a crash of the server took back would be published from the place where it was made.
    """
    committed = engine.connect().execution_options(isolation_level="READ COMMITTED")
    with committed as connection, connection.begin():
        yield connection


def _neighbours(engine: Engine, shard_ids: Sequence[int]) -> list[int]:
    """Return the ids of two shards in the order of their hashes."""
    with engine.connect() as connection:
        found = [reader.find_shard(connection, shard_id) for shard_id in shard_ids]
    left, right = sorted(found, key=lambda shard: shard.hashes.hash_from)
    if left.hashes.hash_to != right.hashes.hash_from:
        raise NotNeighbours(left.id, right.id)
    return [left.id, right.id]


def _publisher(
    connection: Connection, shard: Shard, config: RelayConfig
) -> AbstractContextManager[Publisher]:
    """Make a publisher that looks at the cursor in Kafka wherever there may be one.

    The mode is that of the relays: a person who types a command may have another environment. To look in
    vain costs a moment; not to look would let a former owner end its transaction after the change.
    """
    topics = quiet_admin(config.kafka).list_topics(timeout=_CONTACT_S).topics
    if config.cursor_topic_name in topics:
        config = replace(config, mode="exactly-once")
    return publisher_for(connection, shard, config, Health())
