"""POST /v1/reservations beside pgbench, which runs the same SQL, and beside the framework's own floor.

The callers are those of `ops.bench.load`, in a closed loop; what they cost is told. All turns begin with
empty tables.
Callers, API and Postgres share the processors, with and without the database; pgbench has only Postgres
beside it. Nobody relays or answers: what is measured is accepting.
"""

from pathlib import Path

from sqlalchemy import text

from ops.bench.environment import Run, child_of, execute, process_pool, processes, scratch, with_api
from ops.bench.load import Called, call
from ops.bench.measure import Comparison, Measured, bounded, in_turn, percentiles, with_rounds
from ops.bench.pgbench import reserve_per_s
from ops.supervisor import Child
from runtime.settings import Settings

# So that nobody comes near the bound: at 10,000 reservations a second there are five of each member.
PENDING_PER_S_MAX = 20
_EMPTY = text("""
    TRUNCATE reservations.reservation, reservations.transition, reservations.idempotency_key,
             outbox.message RESTART IDENTITY
""")


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
