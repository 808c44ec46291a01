"""POST /v1/reservations beside pgbench, which runs the same SQL, and beside the framework's own floor.

The loop is closed: callers, each on a connection of its own, ask again as soon as they have an answer.
Each request has a key of its own and the token of one of many members, who take turns. Requests are
prepared bytes, and of an answer only the status and the length are read: the callers use little processor
time, which they measure (`own_us`). All turns begin with empty tables.
Callers, API and Postgres share the processors, with and without the database; pgbench has only Postgres
beside it. Nobody relays or answers: what is measured is accepting.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import uvloop
from sqlalchemy import text

from api.identity.scopes import READ, WRITE
from api.identity.signing import sign
from innbox_process.commands import CommandError
from ops.bench.environment import Run, child_of, execute, process_pool, processes, scratch, with_api
from ops.bench.measure import Comparison, Measured, bounded, in_turn, percentiles, with_rounds
from ops.bench.pgbench import MEMBERS, reserve_per_s
from ops.supervisor import Child
from runtime.settings import Settings

# A call without an answer ends the measurement instead of hanging it.
_PATIENCE_S = 30.0
# So that nobody comes near the bound: at 10,000 reservations a second there are five of each member.
PENDING_PER_S_MAX = 20
_EMPTY = text("""
    TRUNCATE reservations.reservation, reservations.transition, reservations.idempotency_key,
             outbox.message RESTART IDENTITY
""")


class Called(NamedTuple):
    """The time of each call, in seconds, their rate, and the generator's processor time for each."""

    times: Sequence[float]
    per_s: float
    own_us: float


@bounded("--callers", 1, 200, 16)
@bounded("--seconds", 1, 600, 5)
@bounded("--rate", 1.0, 100_000, 200, help_="Requests per second for the times.")
@with_rounds
def bench_api(run: Run, *, callers: int, seconds: int, rounds: int, rate: float) -> Measured:
    """Reserve over HTTP with two API processes, beside pgbench with the same SQL.

    For contrast also one process, pgbench pipelined, and the framework without the database. --seconds is
    the length of one turn; p50 and p99 are those at the rate, with two processes.

    \b
    innbox bench api                       about two minutes
    innbox bench api --callers 32 --json
    """
    last: dict[str, Called] = {}  # by the contender's database

    def api(own: Settings, per_s: float | None = None) -> float:
        execute(own, _EMPTY)
        calling = caller.submit(call, own, callers=callers, seconds=seconds, per_s=per_s)
        last[own.database_url] = calling.result()
        return last[own.database_url].per_s

    def pgbench(*, pipelined: bool) -> float:
        execute(two, _EMPTY)
        return reserve_per_s(two, clients=callers, seconds=seconds, pipelined=pipelined)

    with (
        # A database each, because every NOTIFY of a database wakes all its listeners.
        scratch(_unbounded(run.settings, seconds, api_reuse_port=True)) as two,
        scratch(_unbounded(run.settings, seconds)) as one,
        scratch(_unbounded(run.settings, seconds, api_reuse_port=True)) as floor,
        processes(run.settings, _processes(two, one, floor, run.logs)),
        process_pool(1) as caller,
    ):
        ways = {
            "pgbench": lambda: pgbench(pipelined=False),
            "2 API processes": lambda: api(two),
            "1 API process": lambda: api(one),
            "without database": lambda: api(floor),
            "pgbench, pipelined": lambda: pgbench(pipelined=True),
        }
        rates = in_turn(run.report, "reserving", rounds, ways)
        busy = last[two.database_url]
        api(two, rate)
        calm = percentiles(last[two.database_url].times)
    return Measured(
        "api",
        {"pgbench": Comparison.of(rates, "2 API processes", "pgbench")},
        {
            "one_process": Comparison.of(rates, "1 API process", "pgbench"),
            "pipelined": Comparison.of(rates, "2 API processes", "pgbench, pipelined"),
            "floor": Comparison.of(rates, "2 API processes", "without database"),
        },
        {
            "p50_ms": calm["p50_ms"],
            "p99_ms": calm["p99_ms"],
            "callers": callers,
            "caller_us": busy.own_us,
            "seconds": seconds,
            "rates": [
                {"requests_per_s": rate, **calm},
                {"requests_per_s": busy.per_s, **percentiles(busy.times)},
            ],
        },
    )


def _unbounded(settings: Settings, seconds: int, **changes: object) -> Settings:
    """Return a contender's settings, with bounds that no member reaches."""
    return with_api(
        settings,
        requests_per_s_max=1e6,
        requests_burst_max=1_000_000,
        pending_per_member_max=PENDING_PER_S_MAX * seconds,
        **changes,
    )


def _processes(two: Settings, one: Settings, floor: Settings, logs: Path) -> list[Child]:
    """Return the API in two processes, in one, and its floor in two."""
    names = {"two-1": two, "two-2": two, "one": one, "floor-1": floor, "floor-2": floor}
    children = []
    for name, own in names.items():
        child = child_of(own, logs, "api")
        child.name, child.log = f"api-{name}", logs / f"api-{name}.log"
        if own is floor:
            child.arguments = [child.arguments[0], "-m", "ops.bench.framework_baseline", "api"]
        children.append(child)
    return children


def call(settings: Settings, *, callers: int, seconds: float, per_s: float | None = None) -> Called:
    """Call for some seconds: each caller as soon as it has its answer, or all on a schedule.

    On a schedule a call is due at its time, whatever happened to earlier ones, and its time counts
    from then: a call that is due waits while no caller is free. Raises `CommandError` for any answer
    that is not 202.
    """
    return uvloop.run(_call(settings, callers, seconds, per_s))


async def _call(settings: Settings, callers: int, seconds: float, per_s: float | None) -> Called:
    host, port, request = settings.host, settings.api_port, _requests(settings)
    connections = [await asyncio.open_connection(host, port) for _ in range(callers)]
    own_before_s, began_at = time.process_time(), time.perf_counter()
    numbers = count()
    times: list[float] = []

    async def caller(answers: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        for number in numbers:
            now = time.perf_counter()
            due_at = began_at + number / per_s if per_s else now
            if due_at >= began_at + seconds:
                return
            if due_at > now:
                await asyncio.sleep(due_at - now)
            requests.write(request(number))
            await _accepted(answers)
            times.append(time.perf_counter() - due_at)

    async with asyncio.timeout(seconds + _PATIENCE_S):
        await asyncio.gather(*(caller(*connection) for connection in connections))
    took_s, own_s = time.perf_counter() - began_at, time.process_time() - own_before_s
    for _, requests in connections:
        requests.transport.abort()
    return Called(times, len(times) / took_s, own_s / len(times) * 1e6)


def _requests(settings: Settings) -> Callable[[int], bytes]:
    """Return the function that makes a request of a number; the members take turns."""
    check_in = datetime.now(UTC).date() + timedelta(days=30)
    check_out = check_in + timedelta(days=3)
    body = f'{{"roomId":7,"checkInDate":"{check_in}","checkOutDate":"{check_out}"}}'
    tokens = [sign(settings, member, (READ, WRITE)) for member in range(1, MEMBERS + 1)]
    series = token_hex(6)

    def request(number: int) -> bytes:
        return (
            f"POST /v1/reservations HTTP/1.1\r\nHost: {settings.host}:{settings.api_port}\r\n"
            f"Authorization: Bearer {tokens[number % MEMBERS]}\r\n"
            f"Idempotency-Key: {series}-{number}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    return request


async def _accepted(answers: asyncio.StreamReader) -> None:
    """Read an answer; raises `CommandError` unless it is a 202."""
    try:
        head = await answers.readuntil(b"\r\n\r\n")
        _, _, length = head.partition(b"\r\ncontent-length: ")
        body = await answers.readexactly(int(length.partition(b"\r")[0]))
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise CommandError(f"the API closed the connection: {error}") from error
    if b" 202 " not in head[:16]:
        raise CommandError(f"a call was refused: {(head + body).decode(errors='replace')}")
