"""The relay on a log with a long history, beside the relay on an empty log.

The history is in daily partitions and wholly relayed. Both logs get the same backlog, and are drained
and written to in turn.
"""

from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import text

from innbox_process.commands import Report, reported
from ops.bench.environment import Run, a_relay, make_partitions, process_pool, scratch, session
from ops.bench.latency import latency
from ops.bench.measure import Comparison, Measured, bounded, in_turn, with_rounds
from ops.bench.relay import behind_all, drain_rate, fill
from outbox import admin
from outbox.reader import Cursor
from runtime.settings import Settings

# Else filling, at some 50,000 messages a second, would cause checkpoints all the time.
SERVER = {"max_wal_size": "4GB"}
EVENTS_PER_S = 200.0


@bounded("--history", 1_000, 100_000_000, 10_000_000)
@bounded("--days", 1, 365, 30)
@bounded("--backlog", 1_000, 5_000_000, 200_000)
@bounded("--seconds", 0.1, 600, 10)
@with_rounds
def bench_growth(
    run: Run, *, history: int, days: int, backlog: int, seconds: float, rounds: int
) -> Measured:
    """Relay from a log with a long history in daily partitions, beside an empty one.

    Ten million messages of history take some minutes to make and up to 10 GB of disk. --seconds is the
    length of one latency measurement.

    \b
    innbox bench growth
    innbox bench growth --history 1000000 --json
    """
    # Else the partition maintenance would drop the history.
    kept = run.settings.model_copy(update={"retention_days": days + 7.0})
    with scratch(kept) as empty, scratch(kept) as grown, process_pool(1) as writers:
        _grow(grown, history, days, run.report)
        starts = {log.database_url: _prepare(log, backlog) for log in (empty, grown)}

        def drained(log: Settings) -> float:
            return drain_rate(log, starts[log.database_url], backlog)

        def p50_ms(log: Settings) -> float:
            with a_relay(log, run.logs):
                return latency(log, writers, rate=EVENTS_PER_S, seconds=seconds)["p50_ms"]

        drain = {"with history": partial(drained, grown), "empty log": partial(drained, empty)}
        drains = in_turn(run.report, "draining", rounds, drain)
        write = {"with history": partial(p50_ms, grown), "empty log": partial(p50_ms, empty)}
        # A latency has its own warm-up.
        latencies = in_turn(run.report, "writing", rounds, write, warm_up=0)
    compared = {
        "drain": Comparison.of(drains, "with history", "empty log"),
        "latency": Comparison.of(latencies, "with history", "empty log", "p50_ms"),
    }
    figures = {"history": history, "days": days, "backlog": backlog, "events_per_s": EVENTS_PER_S}
    return Measured("growth", compared, figures=figures)


def _grow(log: Settings, history: int, days: int, report: Report) -> None:
    """Fill past days, up to yesterday."""
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    make_partitions(log.database_url, (noon - timedelta(days=days)).date())
    with session(log) as connection:
        for day in range(days):
            start, end = (history * each // days for each in (day, day + 1))
            fill(
                connection,
                end - start,
                first=start + 1,
                appended_at=noon - timedelta(days=days - day),
                report=lambda done, start=start: report("making history", start + done, history),  # type: ignore[misc]
            )
        names = list(admin.partitions(connection).values())
        for name in reported(report, "vacuuming the history", names):
            connection.execute(text(f"VACUUM (ANALYZE, FREEZE) outbox.{name}"))
        connection.execute(text("CHECKPOINT"))


def _prepare(log: Settings, backlog: int) -> Cursor:
    """Add a backlog, and return the cursor before it."""
    with session(log) as connection:
        since = behind_all(connection)
        fill(connection, backlog)
        connection.execute(text("VACUUM ANALYZE outbox.message"))
    return since
