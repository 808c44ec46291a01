"""The demo: open the hotel, send requests, kill processes, wait for the last result, verify."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
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
from ops.demo.guests import Guests, Hotel, Served, requests
from ops.stack import Running
from ops.verify import Verdict, verify
from runtime.settings import Settings

CLIENTS = 16
SETTLED_WITHIN_S = 60.0
# The process to kill after this share of the requests.
KILLS = ((0.3, "relay"), (0.6, "rooms"))


def run_demo(
    stack: Running, hotel: Hotel, count: int, seed: int, report: Report
) -> tuple[dict[str, Any], Verdict]:
    """Run the demo on a running stack, and verify it; returns the outcome, for JSON, and the verdict.

    What differs between the answers and the stored reservations is lost or doubled.
    """
    began_at = time.monotonic()
    today = datetime.now(UTC).date()
    open_hotel(stack, hotel, today, report)
    served: list[Served] = []
    kills: list[dict[str, Any]] = []
    with Guests(stack.api_url, stack.settings, clients=CLIENTS) as guests:
        for one in guests.send(requests(hotel, today, count, seed)):
            served.append(one)
            report("reserving, cancelling, killing", len(served), count)
            if len(kills) < len(KILLS) and len(served) >= count * KILLS[len(kills)][0]:
                kills.append(_kill(stack, KILLS[len(kills)][1], len(served)))
    stored = _settled(stack.settings, guests.members, report)
    verdict = verify(
        stack.settings, report=lambda what, *progress: report(f"verifying: {what}", *progress)
    )
    counts, statuses = verdict.counts, Counter(stored.values())
    vanished, unexplained = compare([one.reservation_id for one in served], stored)
    left_open = sum(status.open for status in stored.values())
    p50_ms, p99_ms = _percentiles([one.took_ms for one in served])
    outcome = {
        "holds": verdict.holds and not (left_open or vanished or unexplained),
        "reservations": len(stored),
        "confirmed": statuses[Status.CONFIRMED],
        "rejected": statuses[Status.REJECTED],
        "cancelled": statuses[Status.CANCELLED],
        "open": left_open,
        "lost": counts.lost + vanished,
        "doubled": counts.doubled + unexplained,
        "oversold": counts.oversold,
        "violations": sum(finding.violations_count for finding in verdict.findings),
        "kills": kills,
        "latency_ms": {"p50": round(p50_ms, 1), "p99": round(p99_ms, 1)},
        "without_result_in_time": sum(not one.has_result for one in served),
        "repeated_requests": len(guests.repeats),
        "seconds": round(time.monotonic() - began_at, 1),
    }
    return outcome, verdict


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


def _kill(stack: Running, process: str, after: int) -> dict[str, Any]:
    """SIGKILL a process; with two databases there are two relays, and reservations' is the first."""
    names = [state.name for state in stack.supervisor.states()]
    name = next(name for name in names if name.startswith(process))
    pid = stack.supervisor.kill(name)
    return {"process": name, "pid": pid, "at": datetime.now(UTC), "after_reservations": after}


def _settled(settings: Settings, members: range, report: Report) -> dict[int, Status]:
    """Return these members' reservations when no saga of them is open, or at the deadline."""
    ends_at = time.monotonic() + SETTLED_WITHIN_S
    most = 0
    while True:
        stored = _stored(settings, members)
        waiting = sum(status.open for status in stored.values())
        if not waiting or time.monotonic() > ends_at:
            return stored
        most = max(most, waiting)
        report("waiting for the last results", most - waiting, most)
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
