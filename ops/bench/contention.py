"""The drain rate while other transactions are open, beside the rate while there are none.

Each open transaction has an id and a message that is not committed, and is older than messages that
are relayed meanwhile: what would stop a relay that waits for the oldest. One is an idle session's. A
thousand are prepared transactions, which are in every snapshot as those of sessions are, and cost the
machine no processes. They begin while the backlog is made, evenly, so that ids of open and committed
transactions lie side by side.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import getpid

from sqlalchemy import Connection, text

from innbox_process.commands import CommandError, Report
from ops.bench.backlog import behind_all, drain_rate, fill
from ops.bench.environment import scratch, session
from ops.bench.measure import Comparison, Measured
from ops.topics import create_topics
from runtime.settings import Settings

# For an embedded server; one of the environment's must allow as many.
TRANSACTIONS_MAX = 2_000
SERVER = {"max_prepared_transactions": TRANSACTIONS_MAX}

_PREPARED = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
_TURNS = "draining: alone, beside an open transaction, beside many"


def bench_contention(
    settings: Settings, report: Report, *, backlog: int, transactions: int, rounds: int
) -> Measured:
    """Drain a backlog with none, one and many transactions in flight, in turn."""
    rates: dict[int, list[float]] = {0: [], 1: [], transactions: []}
    with scratch(settings) as ours:
        create_topics(ours)
        with session(ours) as connection:
            _refuse_without_room(connection, transactions)
        for number in range(rounds + 1):
            for turn, (in_flight, found) in enumerate(rates.items()):
                report(_TURNS, number * len(rates) + turn, (rounds + 1) * len(rates))
                found.append(_rate(ours, backlog, in_flight, parts=transactions))
        report(_TURNS, (rounds + 1) * len(rates), (rounds + 1) * len(rates))

    # The first round warms everything up and does not count.
    def beside(ours: str, in_flight: int) -> Comparison:
        return Comparison(ours, "none in flight", "per_s", rates[in_flight][1:], rates[0][1:])

    return Measured(
        "contention",
        {
            "one_open": beside("one open transaction", 1),
            "many_in_flight": beside(f"{transactions:,} in flight", transactions),
        },
        figures={"backlog": backlog, "transactions": transactions},
    )


def _rate(settings: Settings, backlog: int, in_flight: int, *, parts: int) -> float:
    """Make a backlog in so many parts, opening a transaction before each of the first; drain it."""
    with session(settings) as connection, _transactions(settings, in_flight) as open_one:
        since = behind_all(connection)
        for part in range(parts):
            if part < in_flight:
                open_one(part)
            start, end = (backlog * each // parts for each in (part, part + 1))
            fill(connection, end - start, first=start + 1)
        connection.execute(text("ANALYZE outbox.message"))
        found = drain_rate(settings, since, backlog)
    with session(settings) as connection:
        connection.execute(text("TRUNCATE outbox.message"))
    return found


@contextmanager
def _transactions(settings: Settings, in_flight: int) -> Iterator[Callable[[int], None]]:
    """Give what opens a transaction with a message; all are rolled back at the end."""
    with session(settings) as connection:
        if in_flight <= 1:
            yield lambda _number: _append_uncommitted(connection)
            connection.execute(text("ROLLBACK"))
            return

        def prepare(number: int) -> None:
            _append_uncommitted(connection)
            connection.execute(text(f"PREPARE TRANSACTION 'innbox-bench-{getpid()}-{number}'"))

        try:
            yield prepare
        finally:
            for gid in connection.execute(_PREPARED).scalars().all():
                connection.execute(text(f"ROLLBACK PREPARED '{gid}'"))


def _append_uncommitted(connection: Connection) -> None:
    # By hand, since the connection is in autocommit.
    connection.execute(text("BEGIN"))
    fill(connection, 1)


def _refuse_without_room(connection: Connection, transactions: int) -> None:
    room = int(connection.execute(text("SHOW max_prepared_transactions")).scalar_one())
    if room < transactions:
        raise CommandError(
            f"{transactions:,} transactions in flight need max_prepared_transactions of as many, and "
            f"this Postgres has {room:,}; raise it and restart, unset DATABASE_URL for an embedded "
            "server, or ask for fewer with --transactions"
        )
