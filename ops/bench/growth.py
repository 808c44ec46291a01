"""The relay on a log with a long history, beside the relay on an empty log.

The history is in daily partitions and wholly relayed. Both logs get the same backlog, and are drained
and written to in turn.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from innbox_process.commands import Report, reported
from ops.bench.backlog import behind_all, drain_rate, fill
from ops.bench.environment import a_relay, make_partitions, process_pool, scratch, session
from ops.bench.latency import latency
from ops.bench.measure import Comparison, Measured
from ops.topics import create_topics
from outbox import admin
from outbox.reader import Cursor
from runtime.settings import Settings

# Else filling, at some 50,000 messages a second, would cause checkpoints all the time.
SERVER = {"max_wal_size": "4GB"}
EVENTS_PER_S = 200.0
_TURNS = "the log with history, then the empty log"


def bench_growth(
    settings: Settings,
    logs: Path,
    report: Report,
    *,
    history: int,
    days: int,
    backlog: int,
    seconds: float,
    rounds: int,
) -> Measured:
    """Measure both logs in turn: the drain rate, and the latency at 200 events a second."""
    # Else the partition maintenance would drop the history.
    kept = settings.model_copy(update={"retention_days": days + 7.0})
    with scratch(kept) as empty, scratch(kept) as grown, process_pool(1) as writers:
        _grow(grown, history, days, report)
        starts = {log.database_url: _prepare(log, backlog) for log in (empty, grown)}

        def drained(log: Settings) -> float:
            return drain_rate(log, starts[log.database_url], backlog)

        def p50_ms(log: Settings) -> float:
            with a_relay(log, logs):
                found = latency(log, writers, rate=EVENTS_PER_S, seconds=seconds)
            return found.since_commit.p50_ms

        drains = [
            (drained(grown), drained(empty))
            for _ in reported(report, f"draining: {_TURNS}", range(rounds + 1))
        ]
        latencies = [
            (p50_ms(grown), p50_ms(empty))
            for _ in reported(report, f"writing: {_TURNS}", range(rounds))
        ]
    # The first drains warm up and do not count; a latency has its own warm-up.
    drain = Comparison("with history", "empty log", "per_s", *zip(*drains[1:], strict=True))
    wait = Comparison("with history", "empty log", "p50_ms", *zip(*latencies, strict=True))
    figures = {"history": history, "days": days, "backlog": backlog, "events_per_s": EVENTS_PER_S}
    return Measured("growth", {"drain": drain, "latency": wait}, figures=figures)


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
    create_topics(log)
    with session(log) as connection:
        since = behind_all(connection)
        fill(connection, backlog)
        connection.execute(text("VACUUM ANALYZE outbox.message"))
    return since
