"""The demo's hotel: read from a TOML file, checked before anything is started."""

import tomllib
from datetime import date, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import msgspec

from innbox_process.commands import CommandError

SAMPLE: Traversable = files("ops.demo") / "hotel.toml"

_Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


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


def load_hotel(file: Path | None = None) -> Hotel:
    """Read a hotel, the sample by default; raises `CommandError`, which names the fault."""
    source = file or SAMPLE
    try:
        return msgspec.convert(tomllib.loads(source.read_text(encoding="utf-8")), Hotel)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CommandError(f"{source} does not describe a hotel: {error}") from error
