"""From the request to the reservation's final status, over HTTP and through all processes.

The loop is closed: so many clients, each of whom asks again when its answer is there. So the rate is
what this many clients get, and the times are those at that rate. Nothing is killed.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_urlsafe

from pydantic import SecretStr

from innbox_process.commands import CommandError, Report
from ops.bench.environment import processes, scratch
from ops.bench.measure import Measured, Times
from ops.demo.guests import MEMBERS, Guests, Stayed, Wish
from ops.demo.hotel import Hotel, RoomType, Season
from ops.demo.run import open_hotel
from ops.ports import free_port
from ops.stack import Running
from ops.supervisor import children_of
from ops.topics import create_topics
from runtime.settings import Settings

WARM_UP_SHARE = 0.1
NIGHTS = 60
STAY_NIGHTS = 3
# Room for everybody, so that every answer is the same kind of work.
HOTEL = Hotel(
    "Bench",
    Season(starts_in_days=14, nights=NIGHTS),
    [RoomType(number, f"Room {number}", 100_000) for number in range(1, 51)],
)


def bench_end_to_end(
    settings: Settings, logs: Path, report: Report, *, reservations: int, clients: int
) -> Measured:
    """Reserve over HTTP; the first tenth of the requests warms up and does not count."""
    with scratch(_signing(settings)) as ours:
        create_topics(ours)
        with processes(ours, children_of(ours, logs)) as supervisor:
            stack = Running(ours, supervisor, f"http://{ours.host}:{ours.api_port}")
            open_hotel(stack, HOTEL, datetime.now(UTC).date(), report)
            warm_up = max(clients, int(reservations * WARM_UP_SHARE))
            _reserve(stack, clients, "warm", warm_up, report)
            began_at = time.perf_counter()
            stories = _reserve(stack, clients, "bench", reservations, report)
            took_s = time.perf_counter() - began_at
    times = Times.of([story.took_ms / 1000 for story in stories])
    counted = {"reservations": reservations, "clients": clients}
    return Measured(
        "end-to-end",
        figures=asdict(times) | {"reservations_per_s": len(stories) / took_s} | counted,
    )


def _signing(settings: Settings) -> Settings:
    """The same settings with a key and a port of this run's own."""
    return settings.model_copy(
        update={
            "environment": "development",
            "jwt_algorithm": "HS256",
            "jwt_key": SecretStr(token_urlsafe(48)),
            "api_port": free_port(settings.host),
        }
    )


def _reserve(
    stack: Running, clients: int, name: str, count: int, report: Report
) -> Sequence[Stayed]:
    """Carry wishes out; raises `CommandError` if one has no final status in time."""
    stories = []
    with Guests(stack.api_url, stack.settings, clients=clients) as guests:
        for story in guests.carry_out([_wish(name, number) for number in range(count)]):
            stories.append(story)
            report(f"reserving ({name})", len(stories), count)
    if without := sum(not story.has_result for story in stories):
        raise CommandError(f"{without} of {count} reservations had no result in time")
    return stories


def _wish(name: str, number: int) -> Wish:
    opens_on = HOTEL.opens_on(datetime.now(UTC).date())
    check_in = opens_on + timedelta(days=number % (NIGHTS - STAY_NIGHTS))
    return Wish(
        key=f"{name}-{number}",
        guest=number % MEMBERS,
        room_id=number % len(HOTEL.rooms) + 1,
        check_in=check_in,
        check_out=check_in + timedelta(days=STAY_NIGHTS),
        is_cancelled_later=False,
    )
