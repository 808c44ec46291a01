"""Owning shards for a moment, beside the relays: to change what a shard is, one must have it in hand.

    reserved ──handed over, or its lease ran out──► claimed, its lease kept ──► given back
        └──not in time, stop──► withdrawn

Whoever owns shards in this way may die at any time: reservations and leases run out by themselves.
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
        until = f" until {shard.leased_until:%H:%M:%S %Z}" if shard.leased_until else ""
        super().__init__(
            f"shard {shard.id} was not to be had within {wait_s:g} s: it is leased to "
            f"{shard.owner or 'nobody'}{until}"
        )
        self.shard = shard


@dataclass
class Hand:
    """Shards in the hand of this process, as they were claimed."""

    stop: Event
    shards: list[Shard] = field(default_factory=list)
    error: Exception | None = None

    def keep_waiting(self) -> bool:
        """Tell whether to go on; raises `LeaseLost`, or why the leases cannot be kept."""
        if self.error:
            raise self.error
        return not self.stop.is_set()


@contextmanager
def owning(
    engine: Engine, ids: Sequence[int], stop: Event, *, lease_s: float, wait_s: float
) -> Iterator[Hand]:
    """Own shards for the length of the block; those that are still there after it are given back.

    `engine` is a direct one. Raises `NoSuchShard`, `ForeignCursor`, `SequenceBehind`, and if one is
    not to be had in time `NotHandedOver` or `HandoverTaken`; `Abandoned` after a stop.
    """
    name = a_new_name("resharding-")
    hand = Hand(stop)
    with engine.connect() as connection, ExitStack() as last:
        reader.listen(connection, reader.SHARD_CHANNEL)
        last.callback(_give_back, connection, ids, name, hand)
        last.enter_context(_kept(engine, hand, lease_s))
        _claim(connection, ids, name, hand, lease_s, wait_s)
        yield hand


def _claim(
    connection: Connection,
    ids: Sequence[int],
    name: str,
    hand: Hand,
    lease_s: float,
    wait_s: float,
) -> None:
    """Claim the shards one after the other, all of them reserved until then."""
    reader.check_cluster_identity(connection)
    reader.check_positions(connection)
    ends_at, reserve_at = time.monotonic() + wait_s, 0.0
    while missing := ids[len(hand.shards) :]:
        is_late = time.monotonic() > ends_at
        if is_late or time.monotonic() > reserve_at:
            _reserve(connection, missing, name, lease_s, is_late=is_late)
            reserve_at = time.monotonic() + lease_s / 4
        if shard := reader.claim(connection, name, lease_s=lease_s, shard_id=missing[0]):
            hand.shards.append(shard)
        elif is_late:
            raise NotHandedOver(reader.find_shard(connection, missing[0]), wait_s)
        elif not hand.keep_waiting():
            raise Abandoned
        else:
            reader.wait_for_notify(connection, min(_STEP_S, lease_s / 4))


def _reserve(
    connection: Connection, ids: Sequence[int], name: str, lease_s: float, *, is_late: bool
) -> None:
    """Reserve shards for the time of a lease; another's reservation is waited for, until it is late."""
    try:
        for shard_id in ids:
            admin.request_handover(connection, shard_id, name, for_s=lease_s)
    except HandoverTaken:
        if is_late:
            raise


@contextmanager
def _kept(engine: Engine, hand: Hand, lease_s: float) -> Iterator[None]:
    """Renew the leases from a thread, since a single reading may take longer than a lease."""
    done = Event()

    def keep() -> None:
        try:
            with engine.connect() as connection:
                while not done.wait(lease_s / 4):
                    for shard in list(hand.shards):
                        reader.renew(connection, shard, lease_s=lease_s)
        except (LeaseLost, SQLAlchemyError) as error:
            hand.error = error  # raised where the work goes on

    thread = Thread(target=keep, name="leases")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _give_back(connection: Connection, ids: Sequence[int], name: str, hand: Hand) -> None:
    """Release and withdraw what is still there; what cannot be runs out by itself."""
    with suppress(SQLAlchemyError):
        for shard in hand.shards:
            with suppress(LeaseLost):  # replaced, or another's
                reader.release_shard(connection, shard)
        for shard_id in ids:
            admin.cancel_handover(connection, shard_id, name)
