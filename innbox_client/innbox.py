"""`Innbox`: the calls, one method each.

What changes something has an idempotency key, one's own or a new one, and is repeated under it; see
`innbox_client.sending`. Threads may share an `Innbox`: its connections are pooled, and it keeps nothing
of a call. The iterators it returns belong to one thread each.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, Generic, Self, TypeVar, Unpack
from uuid import uuid4

import httpx
import msgspec

from innbox_client import loading
from innbox_client.loading import Format, Loaded
from innbox_client.sending import Asked, Token, Wire, follow
from innbox_client.values import (
    Availability,
    Calendar,
    Filters,
    NightsChange,
    NightsSet,
    Reservation,
    Room,
    RoomAvailability,
    Transition,
)

_ASK_AGAIN_S = 0.5

Item = TypeVar("Item")


class _Page(msgspec.Struct, Generic[Item], frozen=True):
    items: tuple[Item, ...]
    next: str | None = None


class Innbox:
    """The API at `url`, as the subject of the token.

    `token` is a bearer token, or a function that is asked for one before every request. `patience_s`
    is for how long, from its first failure, a request is repeated that nobody answers: 30 s unless you
    say otherwise, and for each part of a load 120 s. `on_repeat` hears why, each time. `http` is a client
    of your own (proxies, certificates), which stays open; several of us may share it.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        patience_s: float | None = None,
        on_repeat: Callable[[Exception], None] = lambda _: None,
        http: httpx.Client | None = None,
    ) -> None:
        self._owns_connections = http is None
        self._wire = Wire(http or httpx.Client(), url.rstrip("/"), token, patience_s, on_repeat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls from then on, and those that wait to repeat, are `Unavailable`."""
        self._wire.closed.set()
        if self._owns_connections:
            self._wire.http.close()

    def reserve(
        self,
        room_id: int,
        check_in: date,
        check_out: date,
        *,
        member_id: int | None = None,
        wait_s: int | None = None,
        key: str | None = None,
    ) -> Reservation:
        """Ask for the nights of [check_in, check_out). With `wait_s`, wait so long for the rooms' answer.

        A reservation that is still `open` has yet to be answered. Staff reserve for other members.
        """
        nights = {"check_in_date": check_in, "check_out_date": check_out}
        wish = {"room_id": room_id, "member_id": member_id, **nights}
        return self._change("POST", "/v1/reservations", Reservation, wish, key=key, wait_s=wait_s)

    def cancel(
        self,
        reservation_id: int,
        *,
        version: int | None = None,
        wait_s: int | None = None,
        key: str | None = None,
    ) -> Reservation:
        """Give the nights back; asking again changes nothing.

        With a `version`, only if the reservation still has it: else the problem `PRECONDITION_FAILED`.
        """
        path = f"/v1/reservations/{reservation_id}/cancellation"
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        return self._change("POST", path, Reservation, key=key, wait_s=wait_s, headers=headers)

    def get(self, reservation_id: int) -> Reservation:
        return self._get(f"/v1/reservations/{reservation_id}", Reservation)

    def reservations(self, **filters: Unpack[Filters]) -> Iterator[Reservation]:
        """Iterate over one's own, newest first, a page at a time; staff see everybody's."""
        return self._pages("/v1/reservations", _Page[Reservation], filters)

    def history(self, reservation_id: int) -> list[Transition]:
        """Return every transition, oldest first."""
        path = f"/v1/reservations/{reservation_id}/history"
        return list(self._get(path, _Page[Transition]).items)

    def events(self, reservation_id: int, *, after: int | None = None) -> Iterator[Transition]:
        """Follow the transitions as they happen, from the first one or beyond a version.

        Connects again and goes on where it was. Ends when nothing can come any more.
        """
        return follow(self._wire, f"/v1/reservations/{reservation_id}/events", after)

    def wait_for(self, reservation_id: int, *, within_s: float) -> Reservation:
        """Return it once the rooms have answered; or as it is, still `open`, after so many seconds."""
        ends_at = time.monotonic() + within_s
        while (found := self.get(reservation_id)).open and time.monotonic() < ends_at:
            self._wire.closed.wait(min(_ASK_AGAIN_S, max(0, ends_at - time.monotonic())))
        return found

    def rooms(self) -> Iterator[Room]:
        return self._pages("/v1/rooms", _Page[Room])

    def room(self, room_id: int) -> Room:
        return self._get(f"/v1/rooms/{room_id}", Room)

    def set_room(self, room_id: int, name: str, *, key: str | None = None) -> Room:
        """Name a room, a new one too."""
        return self._change("PUT", f"/v1/rooms/{room_id}", Room, {"name": name}, key=key)

    def calendar(self, room_id: int, from_on: date, to_on: date) -> Calendar:
        """Look at the nights of [from_on, to_on)."""
        within = {"from": from_on, "to": to_on}
        return self._get(f"/v1/rooms/{room_id}/calendar", Calendar, within)

    def set_nights(
        self,
        room_id: int,
        from_on: date,
        to_on: date,
        *,
        key: str | None = None,
        **change: Unpack[NightsChange],
    ) -> NightsSet:
        """Open or change the nights of [from_on, to_on), all of them or none.

        Fewer rooms than are held on a night are the problem `CAPACITY_BELOW_TAKEN`, with its nights.
        """
        body = {"from": from_on, "to": to_on, **change}
        return self._change("PUT", f"/v1/rooms/{room_id}/nights", NightsSet, body, key=key)

    def availability(self, room_id: int, check_in: date, check_out: date) -> Availability:
        """Look whether a stay could be held now. Looking holds nothing."""
        stay = {"check_in": check_in, "check_out": check_out}
        return self._get(f"/v1/rooms/{room_id}/availability", Availability, stay)

    def search(
        self, check_in: date, check_out: date, *, bookable: bool = True
    ) -> Iterator[RoomAvailability]:
        """Look at every room for a stay: at those that could be held, or at all."""
        stay = {"check_in": check_in, "check_out": check_out, "bookable": bookable or None}
        return self._pages("/v1/availability", _Page[RoomAvailability], stay)

    def load_inventory(
        self,
        lines: Iterable[str | bytes],
        *,
        format: Format = "ndjson",  # noqa: A002 - the word for it
        progress: Callable[[Loaded], None] = lambda _: None,
    ) -> Loaded:
        """Set many nights of many rooms, a line each; an open file is such lines, too.

        Lines are sent in parts and judged one by one. `progress` hears after each part what is done. A
        load that was cut short may be repeated from its beginning: a line applied twice is applied once.
        """
        return loading.load(self._wire, lines, format, progress)

    def _get(self, path: str, kind: type[Item], params: Mapping[str, Any] | None = None) -> Item:
        asked = Asked("GET", path, _camel(params or {}))
        return self._wire.send(asked, msgspec.json.Decoder(kind).decode)

    def _pages(
        self, path: str, kind: type[_Page[Item]], params: Mapping[str, Any] | None = None
    ) -> Iterator[Item]:
        cursor = None
        while True:
            page = self._get(path, kind, {**(params or {}), "cursor": cursor})
            yield from page.items
            if (cursor := page.next) is None:
                return

    def _change(
        self,
        method: str,
        path: str,
        kind: type[Item],
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None,
        wait_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Item:
        """Send under the key, or a new one."""
        asked = Asked(
            method,
            path,
            body=None if body is None else msgspec.json.encode(_camel(body)),
            headers={"Content-Type": "application/json", **(headers or {})},
            key=str(uuid4()) if key is None else key,
            wait_s=wait_s or 0,
        )
        return self._wire.send(asked, msgspec.json.Decoder(kind).decode)


def _camel(named: Mapping[str, Any]) -> dict[str, Any]:
    """Rename what Python calls `room_id` to `roomId`; what is None is left out."""
    return {_renamed(name): value for name, value in named.items() if value is not None}


def _renamed(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))
