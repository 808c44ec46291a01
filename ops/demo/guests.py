"""The demo's hotel, which a TOML file describes, and its guests.

They are members who reserve over HTTP, many at a time, and sometimes cancel. Each request has an
idempotency key; the client repeats a request without an answer under that key.
"""

import random
import secrets
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Self

import httpx
import msgspec

from api.identity.signing import sign
from innbox_client import Innbox
from innbox_process.commands import CommandError
from runtime.settings import Settings

SAMPLE: Traversable = files("ops.demo") / "hotel.toml"
_Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
MEMBERS = 40
CANCELLED_SHARE = 0.2
BUSY_SHARE = 0.6
NIGHTS_MAX = 4
WAIT_S = 25
PATIENCE_S = 60.0


class Season(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The nights on sale; `busy_nights` are counted from the first, which is 0."""

    starts_in_days: Annotated[int, msgspec.Meta(ge=0, le=365)]
    nights: Annotated[int, msgspec.Meta(ge=7, le=365)]
    busy_nights: list[Annotated[int, msgspec.Meta(ge=0)]] = []


class RoomType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: _Count
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    capacity: _Count


class Hotel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hotel: a season, and rooms of several types."""

    name: str
    season: Season
    rooms: Annotated[list[RoomType], msgspec.Meta(min_length=1)]

    def opens_on(self, today: date) -> date:
        return today + timedelta(days=self.season.starts_in_days)


@dataclass(frozen=True, slots=True)
class GuestRequest:
    """The reservation that one guest requests."""

    key: str
    guest: int
    room_id: int
    check_in: date
    check_out: date
    is_cancelled_later: bool


@dataclass(frozen=True, slots=True)
class Served:
    """The reservation of a request, and the time from the request to its result.

    Where the wait ended without a result, `has_result` is false, and `took_ms` the wait.
    """

    reservation_id: int
    took_ms: float
    has_result: bool


def load_hotel(file: Path | None = None) -> Hotel:
    """Read a hotel, the sample by default; raises `CommandError`, which names the fault."""
    source = file or SAMPLE
    try:
        return msgspec.convert(tomllib.loads(source.read_text(encoding="utf-8")), Hotel)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CommandError(f"{source} does not describe a hotel: {error}") from error


def requests(hotel: Hotel, today: date, count: int, seed: int) -> list[GuestRequest]:
    """Return a season's requests, the same for the same seed; on busy nights more than rooms."""
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    return [_request(hotel, hotel.opens_on(today), number, chance) for number in range(count)]


class Guests:
    """Sends requests with concurrent clients; close it at the end.

    Its members belong to this run alone, and so do their reservations and idempotency keys.
    """

    def __init__(self, api_url: str, settings: Settings, *, clients: int) -> None:
        first = 1 + secrets.randbelow(2**40) * MEMBERS
        self.members = range(first, first + MEMBERS)
        self.repeats: list[Exception] = []  # why each was sent again
        self._clients = clients
        # One for all members: each client would read the certificates and open connections.
        self._http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=clients))
        self._innboxes = {
            member: Innbox(
                api_url,
                sign(settings, member, lifetime_s=3600),
                patience_s=PATIENCE_S,
                on_repeat=self.repeats.append,
                http=self._http,
            )
            for member in self.members
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, wanted: Sequence[GuestRequest]) -> Iterator[Served]:
        """Yield the outcome of each request as it ends."""
        with ThreadPoolExecutor(self._clients) as pool:
            sent = [pool.submit(self._send, request) for request in wanted]
            try:
                for one in as_completed(sent):
                    yield one.result()
            finally:
                for innbox in self._innboxes.values():
                    innbox.close()  # so that none repeats a request
                pool.shutdown(cancel_futures=True)

    def _send(self, request: GuestRequest) -> Served:
        innbox = self._innboxes[self.members[request.guest]]
        began_at = time.perf_counter()
        reservation = innbox.reserve(
            request.room_id, request.check_in, request.check_out, wait_s=WAIT_S, key=request.key
        )
        took_ms = (time.perf_counter() - began_at) * 1000
        if request.is_cancelled_later and reservation.status != "REJECTED":
            innbox.cancel(reservation.id, wait_s=WAIT_S, key=f"{request.key}-cancel")
        return Served(reservation.id, took_ms, has_result=not reservation.open)


def _request(hotel: Hotel, opens_on: date, number: int, chance: random.Random) -> GuestRequest:
    season = hotel.season
    length = chance.randint(1, min(NIGHTS_MAX, season.nights))
    latest = season.nights - length
    first = chance.randint(0, latest)
    if season.busy_nights and chance.random() < BUSY_SHARE:
        wanted = chance.choice(season.busy_nights) - chance.randint(0, length - 1)
        first = min(latest, max(0, wanted))
    check_in = opens_on + timedelta(days=first)
    return GuestRequest(
        key=f"demo-{number}",
        guest=number % MEMBERS,
        room_id=chance.choice(hotel.rooms).id,
        check_in=check_in,
        check_out=check_in + timedelta(days=length),
        is_cancelled_later=chance.random() < CANCELLED_SHARE,
    )
