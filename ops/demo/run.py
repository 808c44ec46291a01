"""The demo's story: open the hotel, let the guests in, kill, wait for the last answer, verify."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import quantiles
from typing import Any

from sqlalchemy import create_engine, select
from sqlalchemy.pool import NullPool

from api.identity.auth import INVENTORY
from api.identity.signing import sign
from domain.reservations.model import Status
from domain.reservations.tables import reservation
from innbox_client import Innbox
from innbox_process.commands import Report
from ops.demo.guests import Guests, Stayed, wishes
from ops.demo.hotel import Hotel
from ops.stack import Running
from ops.verify import Verdict, verify
from runtime.settings import Settings

CLIENTS = 16
SETTLED_WITHIN_S = 60.0
# Whom to kill when this share of the guests has been served.
KILLS = ((0.3, "relay"), (0.6, "rooms"))


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was ended with SIGKILL, and how far the guests were."""

    process: str
    pid: int
    at: datetime
    after_reservations: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo did, what its guests were told against what is stored, and the verification.

    `vanished` are answered reservations that are not there, `unexplained` those that are there without
    an answer or answer more than one wish.
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
    """Play the story on a running stack, and verify it."""
    began_at = time.monotonic()
    today = datetime.now(UTC).date()
    open_hotel(stack, hotel, today, report)
    wanted = wishes(hotel, today, count, seed)
    stories: list[Stayed] = []
    kills: list[Kill] = []
    with Guests(stack.api_url, stack.settings, clients=CLIENTS) as guests:
        for story in guests.carry_out(wanted):
            stories.append(story)
            report("reserving, cancelling, killing", len(stories), count)
            kills += _kill_when_due(stack, len(stories), count, len(kills))
    _wait_until_settled(stack.settings, guests.members, report)
    stored = _stored(stack.settings, guests.members)
    verdict = verify(
        stack.settings, report=lambda what, *progress: report(f"verifying: {what}", *progress)
    )
    vanished, unexplained = compare([story.reservation_id for story in stories], stored)
    p50_ms, p99_ms = _percentiles([story.took_ms for story in stories])
    return Outcome(
        stored=Counter(stored.values()),
        vanished=vanished,
        unexplained=unexplained,
        verdict=verdict,
        kills=kills,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        without_result=sum(not story.has_result for story in stories),
        repeats=guests.repeats,
        seconds=time.monotonic() - began_at,
    )


def compare(told: Sequence[int], stored: Collection[int]) -> tuple[int, int]:
    """Hold the ids that were answered against those that are there.

    Returns how many vanished, and how many are one too many: there without an answer, or the answer
    to two wishes.
    """
    once = set(told)
    kept = set(stored)
    return len(once - kept), len(kept - once) + len(told) - len(once)


def open_hotel(stack: Running, hotel: Hotel, today: date, report: Report) -> None:
    """Put every room type's season on sale, over HTTP."""
    token = sign(stack.settings, 1, scopes=(INVENTORY,))
    opens_on = hotel.opens_on(today)
    closes_on = opens_on + timedelta(days=hotel.season.nights)
    with Innbox(stack.api_url, token) as innbox:
        for number, room in enumerate(hotel.rooms, start=1):
            innbox.set_nights(room.id, opens_on, closes_on, capacity=room.capacity, name=room.name)
            report("opening the hotel", number, len(hotel.rooms))


def _kill_when_due(stack: Running, done: int, count: int, killed: int) -> Iterator[Kill]:
    if killed < len(KILLS) and done >= count * KILLS[killed][0]:
        name = _name_of(stack, KILLS[killed][1])
        yield Kill(name, stack.supervisor.kill(name), datetime.now(UTC), done)


def _name_of(stack: Running, process: str) -> str:
    """With two databases there are two relays; the reservations' one is the first."""
    names = [state.name for state in stack.supervisor.states()]
    return next(name for name in names if name.startswith(process))


def _wait_until_settled(settings: Settings, members: range, report: Report) -> None:
    """Wait until none of these members' sagas is open; the deadline ends the wait."""
    ends_at = time.monotonic() + SETTLED_WITHIN_S
    most = 0
    while waiting := sum(status.open for status in _stored(settings, members).values()):
        most = max(most, waiting)
        report("waiting for the last answers", most - waiting, most)
        if time.monotonic() > ends_at:
            return
        time.sleep(0.1)  # between two looks


def _stored(settings: Settings, members: range) -> dict[int, Status]:
    """Read what the database holds of these members, past the API."""
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
