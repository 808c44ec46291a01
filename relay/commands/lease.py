"""Borrowing shards for a moment, beside the relays: to change what a shard is, a command must own it.

    requested ──handed over, or its lease ran out──► claimed, its lease kept ──► given back
        └──not in time, stop──► request cancelled

A command that borrows shards may die at any time: requests and leases run out by themselves.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
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

    connection: Connection
    ids: Sequence[int]
    stop: Event
    lease_s: float
    name: str = field(default_factory=partial(a_new_name, "resharding-"))
    shards: list[Shard] = field(default_factory=list)
    error: Exception | None = None

    def keep_waiting(self) -> bool:
        """Tell whether to go on; raises `LeaseLost`, or why the leases cannot be kept."""
        if self.error:
            raise self.error
        return not self.stop.is_set()

    def claim(self, wait_s: float) -> None:
        """Claim the shards one after the other, all of them requested until then."""
        reader.check_cluster_identity(self.connection)
        reader.check_positions(self.connection)
        ends_at, request_at = time.monotonic() + wait_s, 0.0
        while missing := self.ids[len(self.shards) :]:
            is_late = time.monotonic() > ends_at
            if is_late or time.monotonic() > request_at:
                self._request(missing, is_late=is_late)
                request_at = time.monotonic() + self.lease_s / 4
            if shard := reader.claim(
                self.connection, self.name, lease_s=self.lease_s, shard_id=missing[0]
            ):
                self.shards.append(shard)
            elif is_late:
                raise NotHandedOver(reader.find_shard(self.connection, missing[0]), wait_s)
            elif not self.keep_waiting():
                raise Abandoned
            else:
                reader.wait_for_notify(self.connection, min(_STEP_S, self.lease_s / 4))

    def give_back(self) -> None:
        """Release shards and cancel requests that are still there; what is left runs out by itself."""
        with suppress(SQLAlchemyError):
            for shard in self.shards:
                with suppress(LeaseLost):  # replaced, or another's
                    reader.release_shard(self.connection, shard)
            for shard_id in self.ids:
                admin.cancel_handover(self.connection, shard_id, self.name)

    def _request(self, ids: Sequence[int], *, is_late: bool) -> None:
        """Request shards for the time of a lease; another's request is waited for, until it is late."""
        try:
            for shard_id in ids:
                admin.request_handover(self.connection, shard_id, self.name, for_s=self.lease_s)
        except HandoverTaken:
            if is_late:
                raise


@contextmanager
def borrowing(
    engine: Engine, ids: Sequence[int], stop: Event, *, lease_s: float, wait_s: float
) -> Iterator[BorrowedShards]:
    """Own shards for the length of the block; those that are still there after it are given back.

    `engine` is a direct one. Raises `NoSuchShard`, `ForeignCursor`, `SequenceBehind`, and if one could
    not be acquired in time `NotHandedOver` or `HandoverTaken`; `Abandoned` after a stop.
    """
    with engine.connect() as connection, ExitStack() as last:
        borrowed = BorrowedShards(connection, ids, stop, lease_s)
        reader.listen(connection, reader.SHARD_CHANNEL)
        last.callback(borrowed.give_back)
        last.enter_context(_kept(engine, borrowed))
        borrowed.claim(wait_s)
        yield borrowed


@contextmanager
def _kept(engine: Engine, borrowed: BorrowedShards) -> Iterator[None]:
    """Renew the leases from a thread, since a single batch may take longer to read than a lease."""
    done, lease_s = Event(), borrowed.lease_s

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
