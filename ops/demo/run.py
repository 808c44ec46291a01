"""The demo's story: open the hotel, let the guests in, kill, wait for the last answer, verify."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import quantiles
from typing import Any

import httpx
from sqlalchemy import create_engine, func, select
from sqlalchemy.pool import NullPool

from api.auth import INVENTORY, sign
from domain.reservations.model import Status
from domain.reservations.tables import reservation
from ops.demo.guests import Guests, Stayed, wishes
from ops.demo.hotel import Hotel
from ops.errors import CommandError
from ops.stack import Running
from ops.verify import Verdict, verify
from runtime.settings import Settings

Report = Callable[[str, int, int | None], None]

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
    """What the demo did, and what the verification says of it."""

    verdict: Verdict
    kills: list[Kill]
    p50_ms: float
    p99_ms: float
    repeats: int
    seconds: float

    @property
    def holds(self) -> bool:
        return self.verdict.holds and self.verdict.counts.open == 0

    def as_dict(self) -> dict[str, Any]:
        counts = self.verdict.counts
        return {
            "holds": self.holds,
            "reservations": counts.reservations,
            "confirmed": counts.confirmed,
            "rejected": counts.rejected,
            "cancelled": counts.cancelled,
            "open": counts.open,
            "lost": counts.lost,
            "doubled": counts.doubled,
            "oversold": counts.oversold,
            "violations": sum(finding.violations_count for finding in self.verdict.findings),
            "kills": [
                {
                    "process": kill.process,
                    "pid": kill.pid,
                    "at": kill.at.isoformat(),
                    "after_reservations": kill.after_reservations,
                }
                for kill in self.kills
            ],
            "latency_ms": {"p50": round(self.p50_ms, 1), "p99": round(self.p99_ms, 1)},
            "repeated_requests": self.repeats,
            "seconds": round(self.seconds, 1),
        }


def run_demo(stack: Running, hotel: Hotel, count: int, seed: int, report: Report) -> Outcome:
    """Play the story on a running stack, and verify it."""
    began_at = time.monotonic()
    today = datetime.now(UTC).date()
    open_hotel(stack, hotel, today, report)
    wanted = wishes(hotel, today, count, seed)
    guests = Guests(stack.api_url, stack.settings, clients=CLIENTS)
    stories: list[Stayed] = []
    kills: list[Kill] = []
    for story in guests.carry_out(wanted):
        stories.append(story)
        report("reserving, cancelling, killing", len(stories), count)
        kills += _kill_when_due(stack, len(stories), count, len(kills))
    _wait_until_settled(stack.settings, report)
    verdict = verify(
        stack.settings, report=lambda what, *progress: report(f"verifying: {what}", *progress)
    )
    p50_ms, p99_ms = _percentiles([story.result_ms for story in stories if story.result_ms])
    repeats = sum(story.repeats for story in stories)
    return Outcome(verdict, kills, p50_ms, p99_ms, repeats, time.monotonic() - began_at)


def open_hotel(stack: Running, hotel: Hotel, today: date, report: Report) -> None:
    """Put every room type's season on sale, over HTTP."""
    token = sign(stack.settings, 1, scopes=(INVENTORY,))
    opens_on = hotel.opens_on(today)
    closes_on = opens_on + timedelta(days=hotel.season.nights)
    with httpx.Client(base_url=stack.api_url, timeout=30) as client:
        for number, room in enumerate(hotel.rooms, start=1):
            answer = client.put(
                f"/v1/rooms/{room.id}/nights",
                headers={"Authorization": f"Bearer {token}"},
                json={
                    "from": opens_on.isoformat(),
                    "to": closes_on.isoformat(),
                    "capacity": room.capacity,
                    "name": room.name,
                },
            )
            if answer.is_error:
                raise CommandError(f"opening room {room.id}: {answer.status_code} {answer.text}")
            report("opening the hotel", number, len(hotel.rooms))


def _kill_when_due(stack: Running, done: int, count: int, killed: int) -> Iterator[Kill]:
    if killed < len(KILLS) and done >= count * KILLS[killed][0]:
        name = _name_of(stack, KILLS[killed][1])
        yield Kill(name, stack.supervisor.kill(name), datetime.now(UTC), done)


def _name_of(stack: Running, process: str) -> str:
    """With two databases there are two relays; the reservations' one is the first."""
    names = [state.name for state in stack.supervisor.states()]
    return next(name for name in names if name.startswith(process))


def _wait_until_settled(settings: Settings, report: Report) -> None:
    """Wait until no saga is open; the deadline ends the wait, and the verdict then says what is."""
    engine = create_engine(settings.reservations_database_url, poolclass=NullPool)
    is_open = reservation.c.status.in_([status for status in Status if status.open])
    chosen = select(func.count()).select_from(reservation).where(is_open)
    ends_at = time.monotonic() + SETTLED_WITHIN_S
    most = 0
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while waiting := connection.execute(chosen).scalar_one():
            most = max(most, waiting)
            report("waiting for the last answers", most - waiting, most)
            if time.monotonic() > ends_at:
                return
            time.sleep(0.1)  # between two looks


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:  # noqa: PLR2004 - fewer have no quantiles
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = quantiles(values, n=100)
    return cuts[49], cuts[98]
