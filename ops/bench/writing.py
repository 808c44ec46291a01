"""Writers: threads of a process of their own that append events through a pooled engine."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import count

from sqlalchemy import Engine

import outbox
from domain import messages
from domain.stay import Stay
from innbox_process.database import pooled_engine
from ops.bench.backlog import KEYS
from runtime.settings import Settings

# Until then a pool's processes have been told to begin.
HEAD_START_S = 0.1

Instants = dict[int, float]


@contextmanager
def writing(settings: Settings, *, rings: bool) -> Iterator[Engine]:
    """Open an engine as a process that appends has it, whose commits ring the doorbell or do not."""
    with ExitStack() as closed:
        engine = pooled_engine(settings, settings.database_url, "bench-writer")
        closed.callback(engine.dispose)
        if rings:
            doorbell = outbox.install_doorbell(engine, interval_ms=settings.doorbell_ms)
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
    return messages.room_reserve(number + 1, number % KEYS + 1, a_stay())


def a_stay() -> Stay:
    """Return a typical stay, of three nights."""
    return Stay(date(2030, 1, 10), date(2030, 1, 13))


def _append(engine: Engine, number: int) -> float:
    """Append one event, and return the instant of its commit; the doorbell rings after that."""
    with engine.connect() as connection:
        with connection.begin():
            outbox.append(connection, [an_event(number)])
        return time.monotonic()
