"""Loading inventory in bulk: many lines, sent in parts, each line answered.

A part is small enough to be repeated when its answer is lost: a line says what its nights are to be, so
applying it twice is applying it once. Of a part that was stopped in the middle only the rest is repeated.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

import msgspec

from innbox_client.errors import Problem
from innbox_client.sending import Asked, Attempts, Wire

Format = Literal["ndjson", "csv"]

LINES_MAX, BYTES_MAX = 2_000, 256 * 1024
# Each line may cover years of nights, and the answer comes when all are set.
ANSWER_S = 300.0
# Longer than a call's: a load of hours should outlive the API's being exchanged.
PATIENCE_S = 120.0

_MEDIA_TYPES: Final[dict[Format, str]] = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
_PATH = "/v1/inventory"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # spreadsheets begin their files with it


class LineRefused(msgspec.Struct, frozen=True):
    """A line that was not applied: its number in what was given, counted from 1, and why."""

    line: int
    code: str
    detail: str = ""
    field: str | None = None
    nights: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What has been answered so far: bytes of what was given, lines applied, lines refused."""

    bytes: int = 0
    applied: int = 0
    refused: tuple[LineRefused, ...] = ()

    @property
    def lines(self) -> int:
        return self.applied + len(self.refused)


class _Answer(msgspec.Struct, frozen=True):
    status: str


class _Summary(msgspec.Struct, frozen=True, rename="camel"):
    """The last line of an answer, which may have been stopped when its status was sent already.

    What became of the line where it stopped, and of those behind it, is not known then.
    """

    lines: int
    stopped_at_line: int = 0
    code: str = ""
    detail: str = ""


_Lines = list[tuple[int, bytes]]  # each with its number


def load(
    wire: Wire, lines: Iterable[str | bytes], format_: Format, progress: Callable[[Loaded], None]
) -> Loaded:
    """Send every line; tells `progress` after each part what has been answered until then."""
    loaded = Loaded()
    headers = {"Content-Type": _MEDIA_TYPES[format_]}
    asked = Asked("POST", _PATH, headers=headers, answer_s=ANSWER_S, patience_s=PATIENCE_S)
    for header, part, size in _parts(lines, format_):
        # A header without any line behind it is sent, too: it may be wrong.
        is_asked = part or (header and not loaded.lines)
        refused = _sent(wire, asked, header, part) if is_asked else ()
        applied = loaded.applied + len(part) - len(refused)
        loaded = Loaded(loaded.bytes + size, applied, loaded.refused + refused)
        progress(loaded)
    return loaded


def _parts(items: Iterable[str | bytes], format_: Format) -> Iterator[tuple[bytes, _Lines, int]]:
    """Cut into parts: a CSV's header (its first line with text), lines, and the bytes that were given.

    Raises `ValueError` for an item that is more than one line: an answer is told from others by counting.
    """
    header = b""
    lines: _Lines = []
    size = given_size = 0
    for number, item in enumerate(items, start=1):
        given = item.encode() if isinstance(item, str) else item
        given_size += len(given)
        said = (given.removeprefix(_BYTE_ORDER_MARK) if number == 1 else given).strip()
        if b"\n" in said:
            raise ValueError(f"item {number} is more than one line")
        if not said:
            continue
        if format_ == "csv" and not header:
            header = said + b"\n"
            continue
        lines.append((number, said + b"\n"))
        size += len(said) + 1
        if len(lines) >= LINES_MAX or size >= BYTES_MAX:
            yield header, lines, given_size
            lines, size, given_size = [], 0, 0
    yield header, lines, given_size


def _sent(wire: Wire, asked: Asked, header: bytes, lines: _Lines) -> tuple[LineRefused, ...]:
    """Return a part's refusals; raises `Unavailable` if it is not answered to its end in time."""
    attempts = Attempts(wire, asked)
    refused: tuple[LineRefused, ...] = ()
    while True:
        body = header + b"".join(line for _, line in lines)
        refusals, count, summary = wire.send(replace(asked, body=body), partial(_read, lines))
        refused += refusals
        if not summary.stopped_at_line:
            return refused
        if count:
            attempts.renew()
        lines = lines[count:]
        attempts.pause(Problem(503, {"title": summary.code, "detail": summary.detail}))


def _read(lines: _Lines, answer: bytes) -> tuple[tuple[LineRefused, ...], int, _Summary]:
    """Return the refusals, and how many lines were answered: all but those beyond a stop."""
    *answers, last = answer.splitlines() or [b""]
    refused = tuple(_refused(lines, answers))
    summary = msgspec.json.decode(last, type=_Summary)
    count, asked_for = len(answers), len(lines)
    if count > asked_for or (count < asked_for) != bool(summary.stopped_at_line):
        raise msgspec.ValidationError(f"{count} answers to {asked_for} lines")
    return refused, count, summary


def _refused(lines: _Lines, answers: Iterable[bytes]) -> Iterator[LineRefused]:
    for (number, _), answer in zip(lines, answers, strict=False):
        if msgspec.json.decode(answer, type=_Answer).status == "refused":
            refusal = msgspec.json.decode(answer, type=LineRefused)
            yield msgspec.structs.replace(refusal, line=number)
