"""A bulk load cut into lines, each read strictly: a change of the calendar, or what is wrong with it.

Both formats have the same fields. In CSV the first line names them, cells are text, an empty one is not
named, true and false are so written, and weekdays are separated by spaces.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import msgspec

from api.problems import ProblemError, faults
from api.problems.faults import Fault
from api.requests.bodies import Id, media_type
from api.rooms.views import NightSettings, Weekdays
from domain.rooms.change import Change, InvalidRange, nights_of

NDJSON = "application/x-ndjson"
CSV = "text/csv"
LINE_BYTES_MAX = 4_096


class Lines:
    """Cuts a body that streams in; None stands for a line that is too long.

    No more is kept than the line that is not whole yet.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that this chunk brings to an end."""
        whole = (self._rest + chunk).split(b"\n")
        # A byte more than is allowed is enough to know that the line is too long.
        self._rest = whole.pop()[: LINE_BYTES_MAX + 1]
        return [_bounded(line) for line in whole]

    def end(self) -> list[bytes | None]:
        """Return the last line, which needs no end."""
        rest, self._rest = self._rest, b""
        return [_bounded(rest)] if rest else []


def _bounded(line: bytes) -> bytes | None:
    return line if len(line) <= LINE_BYTES_MAX else None


class Line(NightSettings, frozen=True, kw_only=True, gc=False):
    """A night, or the nights of [from, to) that fall on these weekdays, and what they are to be."""

    room_id: Id
    night: date | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    weekdays: Weekdays | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that cannot be applied; `field` is the one at fault, if it is one."""

    code: str
    detail: str
    field: str | None = None


# Reads a line; None is one that asks for nothing, and gets no answer.
Reader = Callable[[bytes | None], Change | Unreadable | None]


def reader_of(content_type: str | None) -> Reader:
    """Return what reads bodies of this type, from their first line on; raises `ProblemError`."""
    match media_type(content_type):
        case "application/x-ndjson":
            return read_json
        case "text/csv":
            return CsvReader()
    raise ProblemError("UNSUPPORTED_MEDIA_TYPE", f"the body must be {NDJSON} or {CSV}")


def read_json(line: bytes | None) -> Change | Unreadable | None:
    if line is None:
        return _TOO_LONG
    if not line or line.isspace():
        return None
    try:
        return _change(_DECODER.decode(line))
    except msgspec.ValidationError as error:
        return _wrong(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable("MALFORMED_LINE", f"the line is not JSON: {error}")


class CsvReader:
    """Reads the header first; raises `ProblemError` if nothing could be read by it."""

    def __init__(self) -> None:
        self._columns: list[str] = []

    def __call__(self, line: bytes | None) -> Change | Unreadable | None:
        if line is not None and (not line or line.isspace()):
            return None
        cells = _cells(line)
        if self._columns:
            return cells if isinstance(cells, Unreadable) else self._read(cells)
        # Without its header nothing of the body could be read.
        fault = cells.detail if isinstance(cells, Unreadable) else _unusable(cells)
        if fault:
            raise ProblemError("INVALID_REQUEST", fault, Fault(fault, pointer="#"))
        assert isinstance(cells, list), "whatever else it is was a fault"
        self._columns = cells
        return None

    def _read(self, cells: list[str]) -> Change | Unreadable:
        if len(cells) != len(self._columns):
            detail = f"the line has {len(cells)} cells, the header {len(self._columns)}"
            return Unreadable("MALFORMED_LINE", detail)
        named = zip(self._columns, cells, strict=True)
        try:
            fields = {name: _CELLS[name](cell) for name, cell in named if cell}
            return _change(msgspec.convert(fields, Line))
        except msgspec.ValidationError as error:
            return _wrong(error)


def _cells(line: bytes | None) -> list[str] | Unreadable:
    if line is None:
        return _TOO_LONG
    try:
        text = line.decode().rstrip("\r")
        [cells] = csv.reader([text], strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        return Unreadable("MALFORMED_LINE", f"the line is not CSV: {error}")
    return cells


def _unusable(columns: list[str]) -> str | None:
    if unknown := [column for column in columns if column not in _CELLS]:
        return f"the header names {unknown[0]!r}, which is no field"
    if len(set(columns)) < len(columns):
        return "the header names a field twice"
    return None if "roomId" in columns else "the header does not name roomId"


def _change(line: Line) -> Change | Unreadable:
    try:
        nights = _nights(line)
    except InvalidRange as invalid:
        return Unreadable(invalid.code, str(invalid), "night" if line.night else "to")
    return nights if isinstance(nights, Unreadable) else line.change(line.room_id, nights)


def _nights(line: Line) -> tuple[date, ...] | Unreadable:
    if line.night is None:
        if line.from_ is None or line.to is None:
            missing = "night" if line.from_ is line.to else "from" if line.from_ is None else "to"
            return Unreadable("INVALID_LINE", "it names a night, or from and to", missing)
        return nights_of(line.from_, line.to, line.weekdays)
    for field, value in (("from", line.from_), ("to", line.to), ("weekdays", line.weekdays)):
        if value is not None:
            return Unreadable("INVALID_LINE", "beside a night it names no range", field)
    if line.night == date.max:
        raise InvalidRange(line.night, line.night, "leaves the calendar")
    return nights_of(line.night, line.night + timedelta(days=1))


def _wrong(error: msgspec.ValidationError) -> Unreadable:
    fault = faults.of_body(error)
    _, _, field = (fault.pointer or "").partition("#/")
    return Unreadable("INVALID_LINE", fault.detail, field or None)


def _number(cell: str) -> int | str:
    """Return text that is no number as it is, for msgspec to say what is wrong with it."""
    return int(cell) if cell.isascii() and cell.isdecimal() else cell


def _truth(cell: str) -> bool | str:
    return {"true": True, "false": False}.get(cell, cell)


_CELLS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("roomId", "capacity", "minStay"), _number),
    **dict.fromkeys(("night", "from", "to", "name"), str),
    **dict.fromkeys(("closed", "closedToArrival", "closedToDeparture"), _truth),
    "weekdays": str.split,
}
_DECODER = msgspec.json.Decoder(Line)
_TOO_LONG = Unreadable("LINE_TOO_LONG", f"a line has at most {LINE_BYTES_MAX} bytes")
