"""Borrowing shards for a moment, beside the relays: to change what a shard is, a command must own it.

    requested ──handed over, or its lease ran out──► claimed, its lease kept ──► given back
        └──not in time, stop──► request cancelled

A command that borrows shards may die at any time: requests and leases run out by themselves.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from outbox import admin, reader
from outbox.admin import HandoverTaken
from outbox.reader import LeaseLost, Shard
from relay.names import a_new_name
from relay.publishing.errors import Abandoned

_STEP_S = 0.5  # how long a stop may go unseen


class NotHandedOver(Exception):
    """The shard's owner neither released it nor lost its lease in time."""

    def __init__(self, shard: Shard, wait_s: float) -> None:
        until = f", leased until {shard.leased_until:%H:%M:%S %Z}" if shard.leased_until else ""
        super().__init__(
            f"could not acquire shard {shard.id} within {wait_s:g} s "
            f"(owner: {shard.owner or 'none'}{until})"
        )
        self.shard = shard


@dataclass
class BorrowedShards:
    """Shards that this process owns for a moment, as they were claimed."""

    stop: Event
    shards: list[Shard] = field(default_factory=list)
    error: Exception | None = None

    def keep_waiting(self) -> bool:
        """Tell whether to go on; raises `LeaseLost`, or why the leases cannot be kept."""
        if self.error:
            raise self.error
        return not self.stop.is_set()


@contextmanager
def borrowing(
    engine: Engine, ids: Sequence[int], stop: Event, *, lease_s: float, wait_s: float
) -> Iterator[BorrowedShards]:
    """Own shards for the length of the block; those that are still there after it are given back.

    `engine` is a direct one. Raises `NoSuchShard`, `ForeignCursor`, `SequenceBehind`, and if one could
    not be acquired in time `NotHandedOver` or `HandoverTaken`; `Abandoned` after a stop.
    """
    name = a_new_name("resharding-")
    borrowed = BorrowedShards(stop)
    with engine.connect() as connection, ExitStack() as last:
        reader.listen(connection, reader.SHARD_CHANNEL)
        last.callback(_give_back, connection, ids, name, borrowed)
        last.enter_context(_kept(engine, borrowed, lease_s))
        _claim(connection, ids, name, borrowed, lease_s, wait_s)
        yield borrowed


def _claim(
    connection: Connection,
    ids: Sequence[int],
    name: str,
    borrowed: BorrowedShards,
    lease_s: float,
    wait_s: float,
) -> None:
    """Claim the shards one after the other, all of them requested until then."""
    reader.check_cluster_identity(connection)
    reader.check_positions(connection)
    ends_at, request_at = time.monotonic() + wait_s, 0.0
    while missing := ids[len(borrowed.shards) :]:
        is_late = time.monotonic() > ends_at
        if is_late or time.monotonic() > request_at:
            _request(connection, missing, name, lease_s, is_late=is_late)
            request_at = time.monotonic() + lease_s / 4
        if shard := reader.claim(connection, name, lease_s=lease_s, shard_id=missing[0]):
            borrowed.shards.append(shard)
        elif is_late:
            raise NotHandedOver(reader.find_shard(connection, missing[0]), wait_s)
        elif not borrowed.keep_waiting():
            raise Abandoned
        else:
            reader.wait_for_notify(connection, min(_STEP_S, lease_s / 4))


def _request(
    connection: Connection, ids: Sequence[int], name: str, lease_s: float, *, is_late: bool
) -> None:
    """Request shards for the time of a lease; another's request is waited for, until it is late."""
    try:
        for shard_id in ids:
            admin.request_handover(connection, shard_id, name, for_s=lease_s)
    except HandoverTaken:
        if is_late:
            raise


@contextmanager
def _kept(engine: Engine, borrowed: BorrowedShards, lease_s: float) -> Iterator[None]:
    """Renew the leases from a thread, since a single batch may take longer to read than a lease."""
    done = Event()

    def keep() -> None:
        try:
            with engine.connect() as connection:
                while not done.wait(lease_s / 4):
                    for shard in list(borrowed.shards):
                        reader.renew(connection, shard, lease_s=lease_s)
        except (LeaseLost, SQLAlchemyError) as error:
            borrowed.error = error  # raised where the work goes on

    thread = Thread(target=keep, name="leases")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _give_back(
    connection: Connection, ids: Sequence[int], name: str, borrowed: BorrowedShards
) -> None:
    """Release shards and cancel requests that are still there; what is left runs out by itself."""
    with suppress(SQLAlchemyError):
        for shard in borrowed.shards:
            with suppress(LeaseLost):  # replaced, or another's
                reader.release_shard(connection, shard)
        for shard_id in ids:
            admin.cancel_handover(connection, shard_id, name)
