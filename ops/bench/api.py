"""POST /v1/reservations beside pgbench, which runs the same SQL, and beside the framework's own floor.

The loop is closed: callers, each on a connection of its own, ask again as soon as they have an answer.
Each request has a key of its own and the token of one of many members. All turns begin with empty tables.
Callers, API and Postgres share the processors, with and without the database; pgbench has only Postgres
beside it. Nobody relays or answers: what is measured is accepting.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from api.identity.scopes import READ, WRITE
from api.identity.signing import sign
from innbox_process.commands import Report
from ops.bench.environment import process_pool, processes, scratch, session
from ops.bench.load_generator import Called, Script, call
from ops.bench.measure import Comparison, Measured, Times
from ops.bench.pgbench import reserve_per_s
from ops.ports import free_port
from ops.supervisor import Child, children_of
from ops.topics import declare
from runtime.settings import Settings

MEMBERS = 2_000
# So that nobody comes near the bound: at 10,000 reservations a second there are five of each member.
PENDING_PER_S_MAX = 20
_TURNS = "reserving: pgbench, the API in two processes and in one, its floor"
_EMPTY = text("""
    TRUNCATE reservations.reservation, reservations.transition, reservations.idempotency_key,
             outbox.message RESTART IDENTITY
""")


@dataclass(slots=True)
class _Found:
    """Requests a second, turn by turn."""

    two: list[Called] = field(default_factory=list)
    one: list[Called] = field(default_factory=list)
    floor: list[Called] = field(default_factory=list)
    pgbench: list[float] = field(default_factory=list)
    pipelined: list[float] = field(default_factory=list)


def bench_api(
    settings: Settings,
    logs: Path,
    report: Report,
    *,
    callers: int,
    seconds: int,
    rounds: int,
    rate: float,
) -> Measured:
    """Reserve for so long in each way, in turn, and then at a rate that leaves the API time."""
    contenders = _contenders(_unbounded(settings, seconds), logs)
    with contenders as (two, one, floor), process_pool(1) as caller:
        turns = _Turns(caller, callers, seconds)
        found = _Found()
        for number in range(rounds + 1):
            report(_TURNS, number, rounds + 1)
            found.pgbench.append(turns.pgbench(two, pipelined=False))
            found.two.append(turns.api(two))
            found.one.append(turns.api(one))
            found.floor.append(turns.api(floor))
            found.pipelined.append(turns.pgbench(two, pipelined=True))
        report(_TURNS, rounds + 1, rounds + 1)
        calm = turns.api(two, rate)
    return _measured(found, calm, callers=callers, seconds=seconds, rate=rate)


@dataclass(slots=True)
class _Turns:
    """One contender's turn at a time, on empty tables."""

    caller: ProcessPoolExecutor
    callers: int
    seconds: int

    def api(self, settings: Settings, rate: float | None = None) -> Called:
        _empty(settings)
        tokens = [sign(settings, member, (READ, WRITE)) for member in range(1, MEMBERS + 1)]
        script = Script(settings.host, settings.api_port, tokens, _body(), token_hex(6))
        calling = self.caller.submit(
            call, script, callers=self.callers, seconds=self.seconds, per_s=rate
        )
        return calling.result()

    def pgbench(self, settings: Settings, *, pipelined: bool) -> float:
        _empty(settings)
        return reserve_per_s(
            settings,
            clients=self.callers,
            seconds=self.seconds,
            members=MEMBERS,
            pipelined=pipelined,
        )


def _measured(found: _Found, calm: Called, *, callers: int, seconds: int, rate: float) -> Measured:
    """The first turn of each warms up and does not count."""
    two, one = _rates(found.two), _rates(found.one)
    floor = _rates(found.floor)
    calm_times, busy_times = Times.of(calm.times), Times.of(found.two[-1].times)
    return Measured(
        "api",
        {"pgbench": Comparison("2 API processes", "pgbench", "per_s", two, found.pgbench[1:])},
        {
            "one_process": Comparison("1 API process", "pgbench", "per_s", one, found.pgbench[1:]),
            "pipelined": Comparison(
                "2 API processes", "pgbench, pipelined", "per_s", two, found.pipelined[1:]
            ),
            "floor": Comparison("2 API processes", "without database", "per_s", two, floor),
        },
        {
            "p50_ms": calm_times.p50_ms,
            "p99_ms": calm_times.p99_ms,
            "callers": callers,
            "caller_us": found.two[-1].own_us,
            "seconds": seconds,
            "rates": [_at(rate, calm_times), _at(two[-1], busy_times)],
        },
    )


def _rates(called: list[Called]) -> list[float]:
    return [each.per_s for each in called[1:]]


def _at(per_s: float, times: Times) -> dict[str, Any]:
    return {"requests_per_s": per_s, **asdict(times)}


@contextmanager
def _contenders(settings: Settings, logs: Path) -> Iterator[tuple[Settings, Settings, Settings]]:
    """Run the API in two processes, in one, and its floor in two; gives the settings of each.

    Each has a database of its own, because every NOTIFY of a database wakes all its listeners.
    """
    with scratch(settings) as two, scratch(settings) as one, scratch(settings) as floor:
        named = {
            name: own.model_copy(update={"api_port": free_port(own.host), **changes})
            for name, own, changes in (
                ("two", two, {"api_reuse_port": True}),
                ("one", one, {}),
                ("floor", floor, {"api_reuse_port": True}),
            )
        }
        for own in named.values():
            declare(own.databases)
        started = [
            *(_api(f"two-{number}", named["two"], logs) for number in (1, 2)),
            _api("one", named["one"], logs),
            *(_floor(f"floor-{number}", named["floor"], logs) for number in (1, 2)),
        ]
        with processes(settings, started):
            yield named["two"], named["one"], named["floor"]


def _empty(settings: Settings) -> None:
    with session(settings) as connection:
        connection.execute(_EMPTY)


def _api(name: str, settings: Settings, logs: Path) -> Child:
    (api,) = [child for child in children_of(settings, logs) if child.name == "api"]
    api.name, api.log = f"api-{name}", logs / f"api-{name}.log"
    return api


def _floor(name: str, settings: Settings, logs: Path) -> Child:
    child = _api(name, settings, logs)
    child.arguments = [child.arguments[0], "-m", "ops.bench.framework_baseline"]
    return child


def _unbounded(settings: Settings, seconds: int) -> Settings:
    """The same settings with a key of this run's own, and with bounds that no member reaches."""
    return settings.model_copy(
        update={
            "environment": "development",
            "jwt_algorithm": "HS256",
            "jwt_key": SecretStr(token_urlsafe(48)),
            "requests_per_s_max": 1e6,
            "requests_burst_max": 1_000_000,
            "pending_per_member_max": PENDING_PER_S_MAX * seconds,
        }
    )


def _body() -> bytes:
    check_in = datetime.now(UTC).date() + timedelta(days=30)
    stay = {
        "roomId": 7,
        "checkInDate": check_in.isoformat(),
        "checkOutDate": (check_in + timedelta(days=3)).isoformat(),
    }
    return json.dumps(stay, separators=(",", ":")).encode()
