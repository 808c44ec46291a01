"""The demo's guests: members who reserve over HTTP, many at a time, and cancel now and then.

They behave as careful clients do: each wish has an idempotency key, and a request whose answer did not
come is repeated under the same key until one comes.
"""

import random
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Event, local
from typing import Any

import httpx

from api.auth import sign
from ops.demo.hotel import Hotel
from ops.errors import CommandError
from runtime.settings import Settings

MEMBERS = 40
CANCELLED_SHARE = 0.2
BUSY_SHARE = 0.6
NIGHTS_MAX = 4
WAIT_S = 25
PATIENCE_S = 60.0

_DONE = frozenset({200, 201, 202})
_TRY_AGAIN = frozenset({409, 429, 500, 502, 503, 504})


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
    repeats: int


def wishes(hotel: Hotel, today: date, count: int, seed: int) -> list[Wish]:
    """Return a season's wishes, the same for the same seed: more than there are rooms on busy nights."""
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    return [_wish(hotel, hotel.opens_on(today), number, chance) for number in range(count)]


class Guests:
    """Carries wishes out with concurrent clients.

    They are members of this run alone, so that its reservations can be told from all others, and its
    idempotency keys from those of an earlier run.
    """

    def __init__(self, api_url: str, settings: Settings, *, clients: int) -> None:
        self.members = _new_members()
        self._api_url = api_url
        self._clients = clients
        self._own = local()
        self._halt = Event()
        self._tokens = {member: sign(settings, member, lifetime_s=3600) for member in self.members}

    def carry_out(self, wanted: Sequence[Wish]) -> Iterator[Stayed]:
        """Yield each wish's story as it ends."""
        with ThreadPoolExecutor(self._clients) as pool:
            stories = [pool.submit(self._stay, wish) for wish in wanted]
            try:
                for story in as_completed(stories):
                    yield story.result()
            finally:
                self._halt.set()
                pool.shutdown(cancel_futures=True)

    def _stay(self, wish: Wish) -> Stayed:
        body = {
            "roomId": wish.room_id,
            "checkInDate": wish.check_in.isoformat(),
            "checkOutDate": wish.check_out.isoformat(),
        }
        began_at = time.perf_counter()
        answer, repeats = self._post(wish, "/v1/reservations", wish.key, body)
        took_ms = (time.perf_counter() - began_at) * 1000
        reservation = answer.json()
        if wish.is_cancelled_later and reservation["status"] != "REJECTED":
            path = f"/v1/reservations/{reservation['id']}/cancellation"
            _, again = self._post(wish, path, f"{wish.key}-cancel", None)
            repeats += again
        # A 200 is the settled reservation; a 202 says that the wait was over first.
        has_result = answer.status_code == httpx.codes.OK
        return Stayed(reservation["id"], took_ms, has_result, repeats)

    def _post(
        self, wish: Wish, path: str, key: str, body: dict[str, Any] | None
    ) -> tuple[httpx.Response, int]:
        """Post until an answer comes; returns it and how many times the request was repeated."""
        headers = {
            "Authorization": f"Bearer {self._tokens[self.members[wish.guest]]}",
            "Idempotency-Key": key,
            "Prefer": f"wait={WAIT_S}",
        }
        ends_at = time.monotonic() + PATIENCE_S
        repeats = 0
        while not self._halt.is_set():
            try:
                answer = self._client().post(path, json=body, headers=headers)
            except httpx.TransportError as error:
                problem = str(error)
            else:
                if answer.status_code in _DONE:
                    return answer, repeats
                if answer.status_code not in _TRY_AGAIN:
                    raise CommandError(f"POST {path}: {answer.status_code} {answer.text}")
                problem = answer.text
            if time.monotonic() > ends_at:
                raise CommandError(f"POST {path}: no answer within {PATIENCE_S:.0f} s: {problem}")
            repeats += 1
            self._halt.wait(0.1)
        raise CommandError("the demo was stopped")

    def _client(self) -> httpx.Client:
        """Return this thread's client, whose connection is kept alive."""
        if not hasattr(self._own, "client"):
            self._own.client = httpx.Client(base_url=self._api_url, timeout=WAIT_S + 10)
        client: httpx.Client = self._own.client
        return client


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
