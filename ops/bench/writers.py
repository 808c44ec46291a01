"""The cost of a wake-up to the writers: transactions per second that append one message each.

The candidate rings the doorbell. The baseline is the same code without a doorbell: no relay wakes. For
contrast, the usual way: a trigger that sends NOTIFY in each transaction, which takes a lock at commit
that all writers share. In all three a session listens, like a relay, and reads nothing, so that reading
is not compared.
"""

import time
from math import ceil

from sqlalchemy import text

import outbox
from ops.bench.environment import Run, execute, process_pool, repeating, scratch, session
from ops.bench.measure import Comparison, Measured, in_turn
from ops.bench.options import bounded, rounds_option
from ops.bench.writing import HEAD_START_S, write
from outbox import reader

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
@rounds_option
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
