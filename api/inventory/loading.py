"""A bulk load under way: lines in, changes made batch by batch, an answer for each line.

Each batch is a transaction, so whatever ends a load in the middle, what was answered `applied` stays.
Whether the batch that it ended in was applied is unknown: a commit may have lost its answer. Values are
absolute, so the whole load may be repeated, or what is left of it.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import IO

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from api.inventory.reading import Reader, Unreadable
from api.problems import NamedNight
from domain.rooms.calendar import change_nights
from domain.rooms.change import BelowTaken, Change, Changed, NightsSet, WithoutCapacity
from domain.rooms.nights import NIGHTS_NAMED_MAX
from innbox_process.database import is_cancelled, is_conflict, is_outage

# Many enough that a batch costs little beside its nights, few enough that neither the rooms'
# consumer, where it waits for a batch, nor a process that stops waits long. Lines that cannot be
# read count as one.
NIGHTS_PER_BATCH = 5_000
# A batch that waited for a lock in vain, or for too long for the time limit, is tried again. Each time
# may last as long as the limit.
ATTEMPTS_MAX = 3


class AppliedLine(msgspec.Struct, frozen=True):
    line: int
    status: str
    nights: int


class RefusedLine(msgspec.Struct, frozen=True, omit_defaults=True):
    line: int
    status: str
    code: str
    detail: str
    field: str | None = None
    nights: tuple[NamedNight, ...] = ()


class Summary(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The last line; of `stoppedAtLine` and what follows it is not known whether it was applied.

    `code` says why.
    """

    lines: int
    applied: int
    refused: int
    stopped_at_line: int = 0
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    code: str
    detail: str
    line: int = 0


NumberedLine = tuple[int, Change | Unreadable]


@dataclass(slots=True)
class Load:
    """Takes lines in order, in a thread; writes the answers to a file of the caller's.

    The event stops it after the current batch, and so do answers of too many bytes.
    """

    engine: Engine
    read: Reader
    answers: IO[bytes]
    stop: Event
    answers_bytes_max: int
    seen: int = 0
    applied: int = 0
    refused: int = 0
    stopped: Stopped | None = None

    def take(self, lines: Sequence[bytes | None]) -> None:
        """Apply some more lines, unless the load has stopped: later lines are passed over.

        A transient error stops it, and the summary says which and where. Only a database that was
        unavailable from the start is raised, like any other error.
        """
        if self.stopped:
            return
        for batch in _batches(self._numbered(lines)):
            if why := self._over() or self._applied(batch):
                self.stopped = replace(why, line=batch[0][0])
                return

    def break_off(self) -> None:
        """Stop where the lines have ended, because no more of them are waited for."""
        if not self.stopped:
            self.stopped = replace(_STOPPING, line=self.seen + 1)

    def end(self) -> None:
        why = (self.stopped.line, self.stopped.code, self.stopped.detail) if self.stopped else ()
        lines = self.applied + self.refused
        self._write(Summary(lines, self.applied, self.refused, *why))

    def _over(self) -> Stopped | None:
        if self.stop.is_set():
            return _STOPPING
        return _TOO_MANY if self.answers.tell() > self.answers_bytes_max else None

    def _applied(self, batch: Sequence[NumberedLine]) -> Stopped | None:
        """Apply a batch and answer its lines, or return the transient error that prevented it."""
        try:
            outcomes = self._apply([one for _, one in batch if isinstance(one, Change)])
        except SQLAlchemyError as error:
            why = _transient(error)
            if why is None or (why is _UNAVAILABLE and not self.applied):
                raise
            return why
        self._answer(batch, iter(outcomes))
        return None

    def _numbered(self, lines: Sequence[bytes | None]) -> Iterator[NumberedLine]:
        """Number the lines of the body, from 1, and read those that ask for something."""
        for given in lines:
            self.seen += 1
            # Spreadsheets begin the first line with a byte order mark.
            line = given.removeprefix(BOM_UTF8) if given and self.seen == 1 else given
            if (asked := self.read(line)) is not None:
                yield self.seen, asked

    def _apply(self, changes: Sequence[Change]) -> list[Changed]:
        if not changes:
            return []
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self.engine.begin() as connection:
                    return change_nights(connection, changes)
            except SQLAlchemyError as error:
                again = is_conflict(error) or is_cancelled(error)
                if attempt == ATTEMPTS_MAX or not again or self.stop.is_set():
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _answer(self, batch: Sequence[NumberedLine], outcomes: Iterator[Changed]) -> None:
        for number, asked in batch:
            answer = _answer(number, asked if isinstance(asked, Unreadable) else next(outcomes))
            if isinstance(answer, AppliedLine):
                self.applied += 1
            else:
                self.refused += 1
            self._write(answer)

    def _write(self, answer: AppliedLine | RefusedLine | Summary) -> None:
        self.answers.write(msgspec.json.encode(answer) + b"\n")


_AGAIN = "repeat the load, or what is left of it"
_UNAVAILABLE = Stopped("UNAVAILABLE", f"the database is unavailable; {_AGAIN}")
_STOPPING = Stopped("UNAVAILABLE", f"the process is stopping; {_AGAIN}")
_LOCKED = Stopped("LOCKED", f"its rooms or nights were locked for too long; {_AGAIN}")
_TIMED_OUT = Stopped("TIMED_OUT", f"the database took too long; {_AGAIN}")
_TOO_MANY = Stopped("TOO_MANY_ANSWERS", "too many refused lines; fix the file and load it again")


def _batches(asked: Iterator[NumberedLine]) -> Iterator[list[NumberedLine]]:
    batch: list[NumberedLine] = []
    nights = 0
    for one in asked:
        batch.append(one)
        nights += len(one[1].nights) if isinstance(one[1], Change) else 1
        if nights >= NIGHTS_PER_BATCH:
            yield batch
            batch, nights = [], 0
    if batch:
        yield batch


def _transient(error: SQLAlchemyError) -> Stopped | None:
    """Return why the load stops, if a repetition may succeed."""
    if is_outage(error):
        return _UNAVAILABLE
    if is_conflict(error):
        return _LOCKED
    return _TIMED_OUT if is_cancelled(error) else None


def _answer(line: int, outcome: Changed | Unreadable) -> AppliedLine | RefusedLine:
    match outcome:
        case NightsSet(count):
            return AppliedLine(line, "applied", count)
        case BelowTaken(nights, code):
            named = [NamedNight(one.on, one.capacity, one.taken) for one in nights]
            return _refused(line, code, "more rooms are held on {} of its nights", named)
        case WithoutCapacity(new, code):
            named = [NamedNight(on) for on in new]
            return _refused(line, code, "{} of its nights are new and have no capacity", named)
        case Unreadable(code, detail, at_fault):
            return RefusedLine(line, "refused", code, detail, at_fault)


def _refused(line: int, code: str, detail: str, nights: list[NamedNight]) -> RefusedLine:
    named = tuple(nights[:NIGHTS_NAMED_MAX])
    return RefusedLine(line, "refused", code, detail.format(len(nights)), nights=named)
