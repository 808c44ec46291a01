"""What a caller says in Python's words, and how the API writes it."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypedDict

import msgspec


class Filters(TypedDict, total=False):
    """Which reservations; only staff may name a `member_id`. `limit` is the size of a page."""

    status: str
    room_id: int
    check_in_from: date
    check_in_to: date
    member_id: int
    limit: int


class NightsChange(TypedDict, total=False):
    """What nights are to be; what is not named stays as it is. A new night needs a capacity."""

    weekdays: Sequence[str]
    capacity: int
    closed: bool
    min_stay: int
    closed_to_arrival: bool
    closed_to_departure: bool
    name: str


def camel(named: Mapping[str, Any]) -> dict[str, Any]:
    """Rename what Python calls `room_id` to `roomId`."""
    return {_renamed(name): value for name, value in named.items()}


def _renamed(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))


def texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Write the parameters of a query; those that are None are left out."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')
        for name, value in params.items()
        if value is not None
    }
