"""From the request to the reservation's final status, over HTTP and through all processes.

The loop is closed: each client sends its next request after its answer. So the rate is that of this many
clients, and the times are those at that rate. No process is killed.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from innbox_process.commands import CommandError, Report
from ops.bench.environment import Run, processes, scratch, with_api
from ops.bench.measure import Measured, bounded, percentiles
from ops.demo.guests import MEMBERS, WAIT_S, GuestRequest, Guests, Hotel, RoomType, Season, Served
from ops.demo.run import open_hotel
from ops.stack import Running
from ops.supervisor import children_of

WARM_UP_SHARE = 0.1
NIGHTS = 60
STAY_NIGHTS = 3
# Enough rooms for all requests, so that every answer is the same work.
HOTEL = Hotel(
    "Bench",
    Season(starts_in_days=14, nights=NIGHTS),
    [RoomType(number, f"Room {number}", 100_000) for number in range(1, 51)],
)


@bounded("--reservations", 10, 1_000_000, 5_000)
@bounded("--clients", 1, 100, 8)
def bench_end_to_end(run: Run, *, reservations: int, clients: int) -> Measured:
    """Time reservations over HTTP from the request to the final status, through all processes.

    \b
    innbox bench end-to-end
    innbox bench end-to-end --clients 1 --reservations 1000 --json
    """
    with (
        scratch(with_api(run.settings)) as own,
        processes(own, children_of(own, run.logs)) as supervisor,
    ):
        stack = Running(own, supervisor, f"http://{own.host}:{own.api_port}")
        open_hotel(stack, HOTEL, datetime.now(UTC).date(), run.report)
        warm_up = max(clients, int(reservations * WARM_UP_SHARE))
        _reserve(stack, clients, "warm", warm_up, run.report)
        began_at = time.perf_counter()
        served = _reserve(stack, clients, "bench", reservations, run.report)
        took_s = time.perf_counter() - began_at
    figures = percentiles([one.took_ms / 1000 for one in served])
    figures["reservations_per_s"] = len(served) / took_s
    counted = {"reservations": reservations, "clients": clients}
    return Measured("end-to-end", figures=figures | counted)


def _reserve(
    stack: Running, clients: int, name: str, count: int, report: Report
) -> Sequence[Served]:
    """Send requests; raises `CommandError` if one has no final status in time."""
    served = []
    with Guests(stack.api_url, stack.settings, clients=clients) as guests:
        for one in guests.send([_request(name, number) for number in range(count)]):
            served.append(one)
            report(f"reserving ({name})", len(served), count)
    if without := sum(not one.has_result for one in served):
        raise CommandError(f"{without} of {count} reservations had no result within {WAIT_S} s")
    return served


def _request(name: str, number: int) -> GuestRequest:
    opens_on = HOTEL.opens_on(datetime.now(UTC).date())
    check_in = opens_on + timedelta(days=number % (NIGHTS - STAY_NIGHTS))
    return GuestRequest(
        key=f"{name}-{number}",
        guest=number % MEMBERS,
        room_id=number % len(HOTEL.rooms) + 1,
        check_in=check_in,
        check_out=check_in + timedelta(days=STAY_NIGHTS),
        is_cancelled_later=False,
    )
