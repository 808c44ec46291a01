"""Waiting for reservations to change: no thread, no connection, and one read for many subscriptions.

A request or stream that waits knows a version, and reads nothing before something newer is heard of. A
notification or the slow poll (`listening`) wakes it. It is then told the transitions after its version,
which are read in one round trip for all subscriptions that were woken together; those that are woken
during a read share the next one. So the higher the load, the more of them share a read.

A notification is a hint, and may be lost: the poll reads for all subscriptions, and finds what was not
heard. A notification may also come before the subscription to its reservation, when the rooms answer
before the API has read the answer to its own commit. So the ids of the last notifications are remembered,
and a subscription to one of them is woken at once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from api.identity.row_security import ALL_MEMBERS, set_member_statement
from api.problems import DATABASE_UNAVAILABLE
from domain.reservations import reading
from domain.reservations.model import Reservation, Transition, after
from runtime.pipeline import PipelinePool

# The last two seconds of a busy API. What is forgotten too early is found by the poll.
RECENT_MAX = 10_000


@dataclass(eq=False, slots=True)
class Subscription:
    """One waiting request or stream: what has come for it since it last looked."""

    reservation_id: int
    seen: int
    failure: Exception | None = None
    _news: list[Transition] = field(default_factory=list)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def heard(self, deadline: float) -> bool:
        """Wait to be woken; tells whether it came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                return await self._woken.wait()
        return False

    def take(self) -> list[Transition]:
        """Return what has come, in order and each transition once; the next wait is for more."""
        self._woken.clear()
        news, self._news = self._news, []
        return news

    def wake(self) -> None:
        self._woken.set()

    def tell(self, transition: Transition) -> None:
        """Pass on a transition that is new; reads that overlap find some of them twice."""
        if transition.version > self.seen:
            self.seen = transition.version
            self._news.append(transition)
            self._woken.set()

    def fail(self, error: Exception) -> None:
        self.failure = error
        self._woken.set()


class RecentIds:
    """The ids of this period and of the one before; of the newest so many at least."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, ids: Iterable[int]) -> None:
        self._new.update(ids)
        if len(self._new) > self._most:
            self.turn()

    def turn(self) -> None:
        """Begin a period, and forget the one before the last."""
        self._old, self._new = self._new, set()

    def __contains__(self, one: int) -> bool:
        return one in self._new or one in self._old


class ReservationWatchers:
    """The subscriptions to each reservation. Belongs to the event loop: call it from nowhere else."""

    def __init__(self, pool: PipelinePool) -> None:
        self._pool = pool
        self._subscriptions: dict[int, set[Subscription]] = {}
        self._recent = RecentIds(RECENT_MAX)
        self._woken: set[Subscription] = set()
        self._any_woken = asyncio.Event()
        # The process stops, so no request should begin to wait.
        self.closing = False

    async def ended(self, known: Reservation, wait_s: float, *, is_current: bool) -> Reservation:
        """Return the reservation once its saga has ended, or as far as is known after `wait_s` seconds.

        `is_current`: it was just read or written. Otherwise it is read first, whatever `wait_s`. While
        the database is away it stays as known: what was accepted stays accepted.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        with self.subscribed(known.id, known.version) as subscription:
            if not is_current and known.status.open:
                with suppress(*DATABASE_UNAVAILABLE):
                    await self._look([subscription])
            while True:
                for transition in subscription.take():
                    known = after(known, transition)
                if not known.status.open or self.closing:
                    return known
                if not await subscription.heard(deadline):
                    return known

    @contextmanager
    def subscribed(self, reservation_id: int, seen: int) -> Iterator[Subscription]:
        """Be told, for the length of a block, what comes after a version of a reservation."""
        subscription = Subscription(reservation_id, seen)
        self._subscriptions.setdefault(reservation_id, set()).add(subscription)
        if reservation_id in self._recent:
            self._read_soon([subscription])
        try:
            yield subscription
        finally:
            self._woken.discard(subscription)
            others = self._subscriptions[reservation_id]
            others.discard(subscription)
            if not others:
                del self._subscriptions[reservation_id]

    def hear(self, payload: str) -> None:
        """Wake the subscriptions to the reservations that a notification names; all if it names none."""
        if not payload:
            self._read_soon(self._all())
            return
        ids = [int(word) for word in payload.split(",") if word.isdecimal()]
        self._recent.add(ids)
        for reservation_id in ids:
            self._read_soon(self._subscriptions.get(reservation_id, ()))

    async def answer(self) -> None:
        """Tell subscriptions that were woken what is new, until cancelled: one read after the other."""
        while True:
            await self._any_woken.wait()
            self._any_woken.clear()
            woken, self._woken = self._woken, set()
            try:
                await self._look(woken)
            except DATABASE_UNAVAILABLE:
                pass  # the poll finds it when the database is back
            except Exception as error:  # noqa: BLE001 - each subscription is told
                for subscription in woken:
                    subscription.fail(error)

    async def poll_once(self) -> None:
        """Tell all subscriptions what is new for them, whether it was heard or not."""
        self._recent.turn()
        await self._look(self._all())

    def close(self) -> None:
        """Wake all, now and from now on: the process stops."""
        self.closing = True
        for subscription in self._all():
            subscription.wake()

    def _all(self) -> list[Subscription]:
        return [one for watching in self._subscriptions.values() for one in watching]

    def _read_soon(self, subscriptions: Collection[Subscription]) -> None:
        if subscriptions:
            self._woken.update(subscriptions)
            self._any_woken.set()

    async def _look(self, subscriptions: Iterable[Subscription]) -> None:
        """Read in one round trip what is new for all of these."""
        of: defaultdict[int, list[Subscription]] = defaultdict(list)
        for subscription in subscriptions:
            of[subscription.reservation_id].append(subscription)
        if not of:
            return
        seen = {id_: min(one.seen for one in watching) for id_, watching in of.items()}
        # The routes have checked whose they are.
        everybodys = set_member_statement(ALL_MEMBERS)
        _, rows = await self._pool.execute([everybodys, reading.since(seen)])
        for transition in reading.transitions(rows):
            for subscription in of[transition.reservation_id]:
                subscription.tell(transition)
