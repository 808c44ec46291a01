"""The cost of a wake-up to the writers: transactions per second that append one message each.

The candidate rings the doorbell. The baseline is the same code without a doorbell: no relay wakes. For
contrast, the usual way: a trigger that sends NOTIFY in each transaction, which takes a lock at commit
that all writers share. In all three a session listens, like a relay, and reads nothing, so that reading
is not compared.

Writers are threads of a process of their own that append through a pooled engine.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import count
from math import ceil

from sqlalchemy import Engine, text

import outbox
from domain import messages
from domain.stay import Stay
from innbox_process.database import pooled_engine
from ops.bench.environment import Run, execute, process_pool, repeating, scratch, session
from ops.bench.measure import Comparison, Measured, bounded, in_turn, with_rounds
from ops.bench.relay import KEYS
from outbox import reader
from runtime.settings import Settings

# Until then a pool's processes have been told to begin.
HEAD_START_S = 0.1
STAY = Stay(date(2030, 1, 10), date(2030, 1, 13))

Instants = dict[int, float]

_FUNCTION = text(f"""
    CREATE FUNCTION bench_notify() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN NOTIFY {outbox.DOORBELL_CHANNEL}; RETURN NULL; END'
""")
_TRIGGER = text("""
    CREATE TRIGGER bench_notify AFTER INSERT ON outbox.message
    FOR EACH STATEMENT EXECUTE FUNCTION bench_notify()
""")
_NO_TRIGGER = text("DROP TRIGGER bench_notify ON outbox.message")


@bounded("--writers", 1, 100, 16)
@bounded("--seconds", 0.1, 600, 5)
@with_rounds
def bench_writers(run: Run, *, writers: int, seconds: float, rounds: int) -> Measured:
    """Count writers' commits with the doorbell, beside the same writers without a wake-up.

    For contrast also with NOTIFY in each transaction. --seconds is the length of one turn.

    \b
    innbox bench writers
    innbox bench writers --writers 32 --seconds 10 --json
    """
    processes = ceil(writers / run.settings.pool_size)
    shares = [len(range(first, writers, processes)) for first in range(processes)]
    with (
        scratch(run.settings) as own,
        process_pool(processes) as clients,
        session(own) as listening,
    ):
        listening.execute(_FUNCTION)
        reader.listen(listening)

        def written(*, rings: bool) -> float:
            """Return the transactions per second of all clients, each with its share of the writers."""
            starts_at = time.monotonic() + HEAD_START_S
            working = [
                clients.submit(write, own, share, starts_at, seconds, rings=rings)
                for share in shares
            ]
            return sum(len(client.result()[1]) for client in working) / seconds

        def notified() -> float:
            execute(own, _TRIGGER)
            found = written(rings=False)
            execute(own, _NO_TRIGGER)
            return found

        with repeating(lambda: reader.wait_for_notify(listening, 0.2)):
            ways = {
                "no wake-up": lambda: written(rings=False),
                "doorbell": lambda: written(rings=True),
                "NOTIFY inside": notified,
            }
            rates = in_turn(run.report, "writing", rounds, ways)
    return Measured(
        "writers",
        {"doorbell": Comparison.of(rates, "doorbell", "no wake-up")},
        {"notify": Comparison.of(rates, "NOTIFY inside", "no wake-up")},
        {"writers": writers, "processes": processes, "seconds": seconds},
    )


@contextmanager
def writing(settings: Settings, *, rings: bool) -> Iterator[Engine]:
    """Open an engine as a process that appends has it, whose commits ring the doorbell or do not."""
    with ExitStack() as closed:
        engine = pooled_engine(settings, settings.database_url, "bench-writer")
        closed.callback(engine.dispose)
        if rings:
            doorbell = outbox.install_doorbell(
                engine, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms
            )
            closed.callback(doorbell.close)
        yield engine


def write(
    settings: Settings,
    threads: int,
    starts_at: float,
    seconds: float,
    *,
    per_s: float | None = None,
    rings: bool = True,
) -> tuple[Instants, Instants]:
    """Append numbered events for some seconds; returns when each began, and was committed.

    Each is due at its time, whatever happened to earlier ones; without a rate, whenever a thread is free.
    """
    numbers, begun, committed = count(), Instants(), Instants()
    with writing(settings, rings=rings) as engine, ThreadPoolExecutor(threads) as pool:

        def work() -> None:
            for number in numbers:
                now = time.monotonic()
                due_at = starts_at + number / per_s if per_s else max(now, starts_at)
                if due_at >= starts_at + seconds:
                    return
                time.sleep(max(0.0, due_at - now))
                begun[number] = time.monotonic()
                committed[number] = _append(engine, number)

        for writer in [pool.submit(work) for _ in range(threads)]:
            writer.result()
    return begun, committed


def an_event(number: int) -> messages.Envelope:
    """Return the message of a reservation; the keys take turns."""
    return messages.room_reserve(number + 1, number % KEYS + 1, STAY)


def _append(engine: Engine, number: int) -> float:
    """Append one event, and return the instant of its commit; the doorbell rings after that."""
    with engine.connect() as connection:
        with connection.begin():
            outbox.append(connection, [an_event(number)])
        return time.monotonic()
