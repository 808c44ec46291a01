"""A reservation from the request to its final status, through all processes, beside two other designs.

In each round every contender has its turn, with processes of its own that start for it and end with it:
nobody else takes the processors. A turn:

    warm up ─► closed load ─► drain ─► closed load that waits ─► one caller ─► eight ─► a schedule

At the end all are killed some times under load, and what then stays PENDING for good is `lost`. No saga
is begun again meanwhile (`REDRIVE_AFTER_S`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

from ops.bench import contenders
from ops.bench.contenders import Contender
from ops.bench.environment import READY_S, Run, process_pool, processes
from ops.bench.load import Called, call, call_through_crashes
from ops.bench.measure import Comparison, Measured, bounded, in_turn, percentiles
from ops.bench.processor import Watched, seconds_of, watched
from ops.supervisor import Supervisor

# A request waits so long for its final status, and a drain is waited for so long.
WAIT_S = 20
DRAIN_S = 60.0
WARM_UP_S = 1.0
FEW = 8
# A killed relay's lease and a killed consumer's partitions are taken over within 10 s.
QUIET_S = 14.0
KILLED_AFTER_S = 0.5
# Four of each process of save-then-send: one that dies more often the supervisor takes for crashing.
KILLS_MAX = 8
KILL_CALLERS = 16

_Turn = dict[str, Any]


class Load(NamedTuple):
    """What the turns of all contenders have in common."""

    seconds: float
    callers: int
    wait_callers: int
    schedule_per_s: float


@bounded("--seconds", 0.2, 600, 5.0, help_="The length of a load.")
@bounded("--callers", 1, 200, 32, help_="Callers that do not wait.")
@bounded("--wait-callers", 1, 200, 64, help_="Callers that wait for the final status.")
@bounded(
    "--rate", 1.0, 100_000, 200, into="schedule_per_s", help_="Requests per second of the schedule."
)
@bounded("--rounds", 1, 20, 2, help_="Measured rounds; each turn warms up.")
@bounded("--kills", 0, KILLS_MAX, 5, help_="SIGKILLs of each contender, after the rounds.")
def bench_saga(
    run: Run,
    *,
    seconds: float,
    callers: int,
    wait_callers: int,
    schedule_per_s: float,
    rounds: int,
    kills: int,
) -> Measured:
    """Book over HTTP to the final status, beside save-then-send and a polling outbox.

    Says sagas per second, times, processor time of each part, and what SIGKILLs lost. The ratio is the
    sagas per second beside those of save-then-send.

    \b
    innbox bench saga                           about four minutes
    innbox bench saga --seconds 3 --rounds 1 --json
    """
    load = Load(seconds, callers, wait_callers, schedule_per_s)
    makers = (contenders.innbox, contenders.save_then_send, contenders.polling_outbox)
    with ExitStack() as stack:
        caller = stack.enter_context(process_pool(len(makers)))
        every = [stack.enter_context(maker(run.settings)) for maker in makers]
        ways = {one.name: _turn_of(run, one, load, caller) for one in every}
        turns = in_turn(run.report, "booking", rounds, ways, warm_up=0)
        lost = _lost_of_all(run, every, kills, caller)
    figures = {name: {**_medians(turns[name]), "lost": lost[name]} for name in turns}
    rates = {name: [each["sagas_per_s"] for each in found] for name, found in turns.items()}
    ours = figures.pop("innbox")
    options = {**load._asdict(), "rounds": rounds, "kills": kills}
    return Measured(
        "saga",
        {"save_then_send": Comparison.of(rates, "innbox", "save_then_send")},
        {"polling": Comparison.of(rates, "innbox", "polling")},
        {**ours, **options},
        figures,
    )


def _turn_of(run: Run, one: Contender, load: Load, caller: Executor) -> Callable[[], _Turn]:
    def turn() -> _Turn:
        with processes(one.settings, one.children(run.logs)) as supervisor:
            seen = watched(one.settings, supervisor.states())
            return _turn(one, load, seen, caller)

    return turn


def _turn(one: Contender, load: Load, seen: Watched, caller: Executor) -> _Turn:
    """Return a turn's figures."""

    def called(callers: int, seconds: float, **more: Any) -> Called:  # noqa: ANN401 - as `call` has them
        done = caller.submit(call, one.settings, callers=callers, seconds=seconds, **more)
        return done.result()

    short_s = load.seconds / 3
    called(load.callers, min(WARM_UP_S, load.seconds))
    one.drained(DRAIN_S)
    found = _sagas(one, seen, lambda: called(load.callers, load.seconds))
    waiting = called(load.wait_callers, load.seconds, wait_s=WAIT_S)
    lone, few, calm = (
        called(callers, short_s, wait_s=WAIT_S, per_s=per_s)
        for callers, per_s in ((1, None), (FEW, None), (4 * FEW, load.schedule_per_s))
    )
    waited_per_s = waiting.per_s * waiting.statuses.get(200, 0) / len(waiting.times)
    every = (waiting, lone, few, calm)
    return found | {
        "wait_sagas_per_s": waited_per_s,
        "wait_share": waited_per_s / found["sagas_per_s"],
        **_times(lone),
        **_times(few, f"callers_{FEW}_"),
        **_times(calm, "schedule_"),
        # Of all that waited: those that had no final status in time.
        "unanswered": sum(each.statuses.get(202, 0) for each in every),
    }


def _sagas(one: Contender, seen: Watched, load: Callable[[], Called]) -> _Turn:
    """Load and drain; returns the whole sagas a second, and what each took of the processors."""
    before, began_at = seconds_of(seen), time.perf_counter()
    called = load()
    pending, left = one.drained(DRAIN_S)
    took_s, after = time.perf_counter() - began_at, seconds_of(seen)
    sagas = len(called.times) - left
    return {
        "sagas_per_s": sagas / took_s,
        "posts_per_s": called.per_s,
        "pending": pending,
        "undrained": left,
        "cpu_us_per_saga": _cpu_us(before, after, max(1, sagas)),
        "load_us": called.own_us,
    }


def _cpu_us(
    before: Mapping[str, float | None], after: Mapping[str, float | None], sagas: int
) -> dict[str, float | None]:
    used: dict[str, float | None] = {}
    for name, since_s in before.items():
        until_s = after[name]
        if since_s is None or until_s is None:
            used[name] = None
        else:
            used[name] = (until_s - since_s) / sagas * 1e6
    return used


def _times(called: Called, prefix: str = "") -> dict[str, float]:
    found = percentiles(called.times)
    return {f"{prefix}{name}": found[name] for name in ("p50_ms", "p99_ms")}


def _medians(turns: Sequence[_Turn]) -> _Turn:
    """Return the median of each figure over the rounds, and the sum of the processor times."""
    found: _Turn = {}
    for name, first in turns[0].items():
        values = [turn[name] for turn in turns]
        if isinstance(first, dict):
            found[name] = _medians(values)
        else:
            found[name] = None if None in values else median(values)
    if (cpu := found.get("cpu_us_per_saga")) is not None:
        cpu["sum"] = sum(value for value in cpu.values() if value is not None)
    return found


def _lost_of_all(
    run: Run, every: Sequence[Contender], kills: int, caller: Executor
) -> dict[str, int]:
    """Kill all contenders' processes at the same time; returns what each has lost."""
    if not kills:
        return {one.name: one.pending_for_good(0, 0) for one in every}
    run.report(f"killing: {', '.join(one.name for one in every)}", 0, None)
    with ExitStack() as stack, ThreadPoolExecutor(len(every)) as threads:
        # Started here, because only the main thread may change what signals do.
        supervised = [(one, stack.enter_context(_supervised(run, one))) for one in every]
        losing = {
            one.name: threads.submit(_lost, one, supervisor, kills, caller)
            for one, supervisor in supervised
        }
        return {name: lost.result() for name, lost in losing.items()}


@contextmanager
def _supervised(run: Run, one: Contender) -> Iterator[Supervisor]:
    """Run processes that may die."""
    stop_s = one.settings.shutdown_s + 2
    with Supervisor(one.children(run.logs), stop_s=stop_s) as supervisor:
        supervisor.wait_until_ready(READY_S)
        yield supervisor


def _lost(one: Contender, supervisor: Supervisor, kills: int, caller: Executor) -> int:
    """Kill a process under load, some times; returns what is pending when nothing changes any more."""
    for number in range(kills):
        seconds = 2 * KILLED_AFTER_S
        loading = caller.submit(
            call_through_crashes, one.settings, callers=KILL_CALLERS, seconds=seconds
        )
        time.sleep(KILLED_AFTER_S)  # under load
        supervisor.kill(one.killed[number % len(one.killed)])
        loading.result()
        supervisor.wait_until_ready(READY_S)
    return one.pending_for_good(QUIET_S, DRAIN_S)
