"""The demo's guests: members who reserve over HTTP, many at a time, and cancel now and then.

Each wish has an idempotency key; the client repeats a request whose answer did not come under that key,
until one comes.
"""

import random
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Lock
from typing import Self

import httpx

from api.identity.signing import sign
from innbox_client import Innbox
from ops.demo.hotel import Hotel
from runtime.settings import Settings

MEMBERS = 40
CANCELLED_SHARE = 0.2
BUSY_SHARE = 0.6
NIGHTS_MAX = 4
WAIT_S = 25
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What one guest wants."""

    key: str
    guest: int
    room_id: int
    check_in: date
    check_out: date
    is_cancelled_later: bool


@dataclass(frozen=True, slots=True)
class Stayed:
    """How a wish went: the reservation's id, and how long its result took from the request.

    Where the wait was over before there was a result, `has_result` is false, and `took_ms` the wait.
    """

    reservation_id: int
    took_ms: float
    has_result: bool


def wishes(hotel: Hotel, today: date, count: int, seed: int) -> list[Wish]:
    """Return a season's wishes, the same for the same seed: more than there are rooms on busy nights."""
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    return [_wish(hotel, hotel.opens_on(today), number, chance) for number in range(count)]


class Guests:
    """Carries wishes out with concurrent clients; to be closed.

    They are members of this run alone, so that its reservations can be told from all others, and its
    idempotency keys from those of an earlier run.
    """

    def __init__(self, api_url: str, settings: Settings, *, clients: int) -> None:
        self.members = _new_members()
        self.repeats = 0
        self._counting = Lock()
        self._clients = clients
        # One for all: each would read the certificates anew, and have connections of its own.
        self._http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=clients))
        self._innboxes = {
            member: Innbox(
                api_url,
                sign(settings, member, lifetime_s=3600),
                patience_s=PATIENCE_S,
                on_repeat=self._count,
                http=self._http,
            )
            for member in self.members
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def carry_out(self, wanted: Sequence[Wish]) -> Iterator[Stayed]:
        """Yield each wish's story as it ends."""
        with ThreadPoolExecutor(self._clients) as pool:
            stories = [pool.submit(self._stay, wish) for wish in wanted]
            try:
                for story in as_completed(stories):
                    yield story.result()
            finally:
                self._stop()
                pool.shutdown(cancel_futures=True)

    def _stay(self, wish: Wish) -> Stayed:
        innbox = self._innboxes[self.members[wish.guest]]
        began_at = time.perf_counter()
        reservation = innbox.reserve(
            wish.room_id, wish.check_in, wish.check_out, wait_s=WAIT_S, key=wish.key
        )
        took_ms = (time.perf_counter() - began_at) * 1000
        if wish.is_cancelled_later and reservation.status != "REJECTED":
            innbox.cancel(reservation.id, wait_s=WAIT_S, key=f"{wish.key}-cancel")
        return Stayed(reservation.id, took_ms, has_result=not reservation.open)

    def _stop(self) -> None:
        """Have nobody repeat anything any more."""
        for innbox in self._innboxes.values():
            innbox.close()

    def _count(self, _: Exception) -> None:
        with self._counting:
            self.repeats += 1


def _new_members() -> range:
    first = 1 + secrets.randbelow(2**40) * MEMBERS
    return range(first, first + MEMBERS)


def _wish(hotel: Hotel, opens_on: date, number: int, chance: random.Random) -> Wish:
    season = hotel.season
    length = chance.randint(1, min(NIGHTS_MAX, season.nights))
    latest = season.nights - length
    first = chance.randint(0, latest)
    if season.busy_nights and chance.random() < BUSY_SHARE:
        first = min(
            latest, max(0, chance.choice(season.busy_nights) - chance.randint(0, length - 1))
        )
    check_in = opens_on + timedelta(days=first)
    return Wish(
        key=f"demo-{number}",
        guest=number % MEMBERS,
        room_id=chance.choice(hotel.rooms).id,
        check_in=check_in,
        check_out=check_in + timedelta(days=length),
        is_cancelled_later=chance.random() < CANCELLED_SHARE,
    )
