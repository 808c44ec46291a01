"""The cost of a wake-up to the writers: transactions per second that append one message each.

The candidate rings the doorbell. The baseline is the same code without a doorbell: no relay wakes. For
contrast, the usual way: a trigger that sends NOTIFY in each transaction, which takes a lock at commit
that all writers share. In all three a session listens, like a relay, and reads nothing, so that reading
is not compared.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from math import ceil
from threading import Event, Thread

from sqlalchemy import text

import outbox
from domain import messages
from innbox_process.commands import Report, reported
from innbox_process.database import pooled_engine
from ops.bench.backlog import KEYS
from ops.bench.environment import a_stay, process_pool, scratch, session
from ops.bench.measure import Comparison, Measured
from ops.topics import declare
from outbox import reader
from runtime.settings import Settings

_HEAD_START_S = 0.1
_TURNS = "writing: no wake-up, the doorbell, NOTIFY by a trigger"

_FUNCTION = text(f"""
    CREATE FUNCTION bench_notify() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN NOTIFY {outbox.DOORBELL_CHANNEL}; RETURN NULL; END'
""")
_TRIGGER = text("""
    CREATE TRIGGER bench_notify AFTER INSERT ON outbox.message
    FOR EACH STATEMENT EXECUTE FUNCTION bench_notify()
""")
_NO_TRIGGER = text("DROP TRIGGER bench_notify ON outbox.message")


def bench_writers(
    settings: Settings, report: Report, *, writers: int, seconds: float, rounds: int
) -> Measured:
    """Write in each way, in turn, from as many processes as the pool size requires."""
    processes = ceil(writers / settings.pool_size)
    shares = [len(range(first, writers, processes)) for first in range(processes)]
    silent, doorbell, notify = [], [], []
    with scratch(settings) as own, process_pool(processes) as clients, _listening(own):
        declare(own.databases)
        with session(own) as connection:
            connection.execute(_FUNCTION)
        for _ in reported(report, _TURNS, range(rounds + 1)):
            silent.append(_rate(own, clients, shares, seconds, rings=False))
            doorbell.append(_rate(own, clients, shares, seconds, rings=True))
            with _notifying(own):
                notify.append(_rate(own, clients, shares, seconds, rings=False))
    # The first round starts the processes and does not count.
    return Measured(
        "writers",
        {"doorbell": Comparison("doorbell", "no wake-up", "per_s", doorbell[1:], silent[1:])},
        {"notify": Comparison("NOTIFY inside", "no wake-up", "per_s", notify[1:], silent[1:])},
        {"writers": writers, "processes": processes, "seconds": seconds},
    )


def write_for(
    settings: Settings, threads: int, seconds: float, starts_at: float, *, rings: bool
) -> int:
    """Commit transactions of one message until the time is over; returns how many."""
    engine = pooled_engine(settings, settings.database_url, "bench-writer")
    doorbell = outbox.install_doorbell(engine, interval_ms=settings.doorbell_ms) if rings else None
    ends_at = starts_at + seconds

    def write(thread: int) -> int:
        committed = 0
        time.sleep(max(0.0, starts_at - time.monotonic()))
        while time.monotonic() < ends_at:
            committed += 1
            with engine.begin() as connection:
                reserve = messages.room_reserve(committed, thread + committed % KEYS + 1, a_stay())
                outbox.append(connection, [reserve])
        return committed

    with ThreadPoolExecutor(threads) as pool:
        committed = sum(pool.map(write, range(threads)))
    if doorbell:
        doorbell.close()
    engine.dispose()
    return committed


def _rate(
    settings: Settings,
    clients: ProcessPoolExecutor,
    shares: list[int],
    seconds: float,
    *,
    rings: bool,
) -> float:
    """Return the transactions per second of all clients, each with its share of the writers."""
    starts_at = time.monotonic() + _HEAD_START_S
    working = [
        clients.submit(write_for, settings, share, seconds, starts_at, rings=rings)
        for share in shares
    ]
    return sum(client.result() for client in working) / seconds


@contextmanager
def _notifying(settings: Settings) -> Iterator[None]:
    with session(settings) as connection:
        connection.execute(_TRIGGER)
        yield
        connection.execute(_NO_TRIGGER)


@contextmanager
def _listening(settings: Settings) -> Iterator[None]:
    """Receive every notification, like a relay that waits."""
    stop = Event()

    def listen() -> None:
        with session(settings) as connection:
            reader.listen(connection)
            while not stop.is_set():
                reader.wait_for_notify(connection, 0.2)

    listener = Thread(target=listen, name="bench-listener")
    listener.start()
    try:
        yield
    finally:
        stop.set()
        listener.join()
