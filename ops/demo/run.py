"""The demo: open the hotel, send requests, kill processes, wait for the last result, verify."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import quantiles
from typing import Any

from sqlalchemy import create_engine, select
from sqlalchemy.pool import NullPool

from api.identity.scopes import INVENTORY
from api.identity.signing import sign
from domain.reservations.model import Status
from domain.reservations.tables import reservation
from innbox_client import Innbox
from innbox_process.commands import Report, reported
from ops.demo.guests import Guests, Served, requests
from ops.demo.hotel import Hotel
from ops.stack import Running
from ops.verify import Verdict, verify
from runtime.settings import Settings

CLIENTS = 16
SETTLED_WITHIN_S = 60.0
# The process to kill after this share of the requests.
KILLS = ((0.3, "relay"), (0.6, "rooms"))


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed with SIGKILL, and the number of reservations by then."""

    process: str
    pid: int
    at: datetime
    after_reservations: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The demo's kills, its answers compared with the stored reservations, and the verification.

    `vanished` are answered reservations that are not stored, `unexplained` those that are stored
    without an answer, or answer more than one request.
    """

    stored: Mapping[Status, int]
    vanished: int
    unexplained: int
    verdict: Verdict
    kills: list[Kill]
    p50_ms: float
    p99_ms: float
    without_result: int
    repeats: int
    seconds: float

    @property
    def open(self) -> int:
        return sum(count for status, count in self.stored.items() if status.open)

    @property
    def holds(self) -> bool:
        return self.verdict.holds and not (self.open or self.vanished or self.unexplained)

    def as_dict(self) -> dict[str, Any]:
        counts = self.verdict.counts
        return {
            "holds": self.holds,
            "reservations": sum(self.stored.values()),
            "confirmed": self.stored.get(Status.CONFIRMED, 0),
            "rejected": self.stored.get(Status.REJECTED, 0),
            "cancelled": self.stored.get(Status.CANCELLED, 0),
            "open": self.open,
            "lost": counts.lost + self.vanished,
            "doubled": counts.doubled + self.unexplained,
            "oversold": counts.oversold,
            "violations": sum(finding.violations_count for finding in self.verdict.findings),
            "kills": [asdict(kill) for kill in self.kills],
            "latency_ms": {"p50": round(self.p50_ms, 1), "p99": round(self.p99_ms, 1)},
            "without_result_in_time": self.without_result,
            "repeated_requests": self.repeats,
            "seconds": round(self.seconds, 1),
        }


def run_demo(stack: Running, hotel: Hotel, count: int, seed: int, report: Report) -> Outcome:
    """Run the demo on a running stack, and verify it."""
    began_at = time.monotonic()
    today = datetime.now(UTC).date()
    open_hotel(stack, hotel, today, report)
    wanted = requests(hotel, today, count, seed)
    served: list[Served] = []
    kills: list[Kill] = []
    with Guests(stack.api_url, stack.settings, clients=CLIENTS) as guests:
        for one in guests.send(wanted):
            served.append(one)
            report("reserving, cancelling, killing", len(served), count)
            kills += _kill_when_due(stack, len(served), count, len(kills))
    _wait_until_settled(stack.settings, guests.members, report)
    stored = _stored(stack.settings, guests.members)
    verdict = verify(
        stack.settings, report=lambda what, *progress: report(f"verifying: {what}", *progress)
    )
    vanished, unexplained = compare([one.reservation_id for one in served], stored)
    p50_ms, p99_ms = _percentiles([one.took_ms for one in served])
    return Outcome(
        stored=Counter(stored.values()),
        vanished=vanished,
        unexplained=unexplained,
        verdict=verdict,
        kills=kills,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        without_result=sum(not one.has_result for one in served),
        repeats=guests.repeats,
        seconds=time.monotonic() - began_at,
    )


def compare(answered: Sequence[int], stored: Collection[int]) -> tuple[int, int]:
    """Compare the answered ids with the stored ones.

    Returns the number that vanished, and the number that is too many: stored without an answer, or
    the answer to two requests.
    """
    once = set(answered)
    kept = set(stored)
    return len(once - kept), len(kept - once) + len(answered) - len(once)


def open_hotel(stack: Running, hotel: Hotel, today: date, report: Report) -> None:
    """Put every room type's season on sale, over HTTP."""
    token = sign(stack.settings, 1, scopes=(INVENTORY,))
    opens_on = hotel.opens_on(today)
    closes_on = opens_on + timedelta(days=hotel.season.nights)
    with Innbox(stack.api_url, token) as innbox:
        for room in reported(report, "opening the hotel", hotel.rooms):
            innbox.set_nights(room.id, opens_on, closes_on, capacity=room.capacity, name=room.name)


def _kill_when_due(stack: Running, done: int, count: int, killed: int) -> Iterator[Kill]:
    if killed < len(KILLS) and done >= count * KILLS[killed][0]:
        name = _name_of(stack, KILLS[killed][1])
        yield Kill(name, stack.supervisor.kill(name), datetime.now(UTC), done)


def _name_of(stack: Running, process: str) -> str:
    """Return the child's name: with two databases there are two relays, reservations' first."""
    names = [state.name for state in stack.supervisor.states()]
    return next(name for name in names if name.startswith(process))


def _wait_until_settled(settings: Settings, members: range, report: Report) -> None:
    """Wait until no saga of these members is open, or until the deadline."""
    ends_at = time.monotonic() + SETTLED_WITHIN_S
    most = 0
    while waiting := sum(status.open for status in _stored(settings, members).values()):
        most = max(most, waiting)
        report("waiting for the last results", most - waiting, most)
        if time.monotonic() > ends_at:
            return
        time.sleep(0.1)  # between two queries


def _stored(settings: Settings, members: range) -> dict[int, Status]:
    """Read these members' reservations from the database, without the API."""
    chosen = select(reservation.c.id, reservation.c.status).where(
        reservation.c.member_id.between(members[0], members[-1])
    )
    engine = create_engine(settings.reservations_database_url, poolclass=NullPool)
    with engine.connect() as connection:
        return {id_: Status(status) for id_, status in connection.execute(chosen)}


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:  # noqa: PLR2004 - fewer have no quantiles
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = quantiles(values, n=100)
    return cuts[49], cuts[98]
