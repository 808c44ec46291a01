"""The drain rate while other transactions are open, beside the rate while none is.

Each open transaction has an id and an uncommitted message, and is older than messages that are relayed
meanwhile: it would stop a relay that waits for the oldest. A single one belongs to an idle session. Many
are prepared transactions, which are in every snapshot like those of sessions, but need no processes.
They begin evenly while the backlog is made, so that ids of open and committed transactions alternate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from os import getpid

from sqlalchemy import Connection, text

from innbox_process.commands import CommandError
from ops.bench.environment import Run, execute, scratch, session
from ops.bench.measure import Comparison, Measured, bounded, in_turn, with_rounds
from ops.bench.relay import behind_all, drain_rate, fill
from runtime.settings import Settings

# For an embedded server; a server of the environment must allow as many.
TRANSACTIONS_MAX = 2_000
SERVER = {"max_prepared_transactions": TRANSACTIONS_MAX}

_PREPARED = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")


@bounded("--backlog", 1_000, 5_000_000, 200_000)
@bounded("--transactions", 2, TRANSACTIONS_MAX, 1_000)
@with_rounds
def bench_contention(run: Run, *, backlog: int, transactions: int, rounds: int) -> Measured:
    """Drain while one or many transactions are open, beside draining with none open.

    Your own Postgres must allow as many prepared transactions (max_prepared_transactions).

    \b
    innbox bench contention
    innbox bench contention --transactions 100 --json
    """
    none, one, many = "none in flight", "one open transaction", f"{transactions:,} in flight"
    with scratch(run.settings) as own:
        with session(own) as connection:
            _require_prepared_transactions(connection, transactions)
        measure = partial(_rate, own, backlog, chunks=transactions)
        ways = {
            none: partial(measure, 0),
            one: partial(measure, 1),
            many: partial(measure, transactions),
        }
        rates = in_turn(run.report, "draining", rounds, ways)
    compared = {
        "one_open": Comparison.of(rates, one, none),
        "many_in_flight": Comparison.of(rates, many, none),
    }
    figures = {"backlog": backlog, "transactions": transactions}
    return Measured("contention", compared, figures=figures)


def _rate(settings: Settings, backlog: int, in_flight: int, *, chunks: int) -> float:
    """Make a backlog in chunks, open a transaction before each of the first ones, and drain it."""
    with session(settings) as connection, _transactions(settings, in_flight) as open_one:
        since = behind_all(connection)
        for chunk in range(chunks):
            if chunk < in_flight:
                open_one(chunk)
            start, end = (backlog * each // chunks for each in (chunk, chunk + 1))
            fill(connection, end - start, first=start + 1)
        connection.execute(text("ANALYZE outbox.message"))
        found = drain_rate(settings, since, backlog)
    execute(settings, text("TRUNCATE outbox.message"))
    return found


@contextmanager
def _transactions(settings: Settings, in_flight: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that opens a transaction with a message; all are rolled back at the end."""
    with session(settings) as connection:

        def open_one(number: int) -> None:
            # BEGIN explicitly, since the connection is in autocommit.
            connection.execute(text("BEGIN"))
            fill(connection, 1)
            if in_flight > 1:
                connection.execute(text(f"PREPARE TRANSACTION 'innbox-bench-{getpid()}-{number}'"))

        try:
            yield open_one
        finally:
            connection.execute(text("ROLLBACK"))
            for gid in connection.execute(_PREPARED).scalars().all():
                connection.execute(text(f"ROLLBACK PREPARED '{gid}'"))


def _require_prepared_transactions(connection: Connection, transactions: int) -> None:
    allowed = int(connection.execute(text("SHOW max_prepared_transactions")).scalar_one())
    if allowed < transactions:
        raise CommandError(
            f"this Postgres has max_prepared_transactions = {allowed:,}, and {transactions:,} are "
            "needed; raise it and restart, unset DATABASE_URL for an embedded server, or lower "
            "--transactions"
        )
