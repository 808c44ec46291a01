"""`innbox bench`: throughput, latency and cost, each beside a baseline of the same run."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args

import click

from ops.cli.bench_output import bench_environment, show
from ops.cli.root import cli
from relay.cli.output import as_json
from runtime.settings import RelayMode

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def bounded(
    name: str, low: float, high: float, default: float, help_: str | None = None
) -> Decorator:
    """Return an option for a number between bounds, for a whole number if `low` is one."""
    type_ = click.IntRange(low, int(high)) if isinstance(low, int) else click.FloatRange(low, high)
    return click.option(name, type=type_, default=default, show_default=True, help=help_)


rounds_option = bounded("--rounds", 1, 20, 3, "Measured rounds; one more warms up.")

_mode = click.option(
    "--mode",
    type=click.Choice(get_args(RelayMode)),
    default="at-least-once",
    show_default=True,
    help="The relay's mode.",
)


@cli.group()
def bench() -> None:
    """Measure performance beside a baseline in the same run.

    A benchmark uses the servers of the environment, else embedded ones in a temporary directory, and
    always its own databases and topics. A ratio above 1 means that innbox is better than the baseline.
    """


@bench.command()
@bounded("--backlog", 1_000, 5_000_000, 500_000)
@_mode
@rounds_option
@as_json
def relay(backlog: int, mode: RelayMode, rounds: int, as_json: bool) -> None:
    """Drain a backlog with one relay, beside the bare producer loop with the same headers.

    \b
    innbox bench relay                     about two minutes
    innbox bench relay --backlog 100000 --json
    """
    from ops.bench import bench_relay

    with bench_environment() as (settings, _, report):
        found = bench_relay(settings, report, backlog=backlog, rounds=rounds, mode=mode)
    show(found, as_json=as_json)


@bench.command()
@click.option(
    "--rate",
    "rates",
    type=click.FloatRange(1, 100_000),
    multiple=True,
    default=(200, 1_000),
    show_default=True,
    help="Events per second; may be repeated.",
)
@bounded("--seconds", 0.1, 600, 20)
@_mode
@as_json
def latency(rates: tuple[float, ...], seconds: float, mode: RelayMode, as_json: bool) -> None:
    """Time events from commit to consumer at a steady rate, through a relay process.

    The first two seconds of each rate warm up. The p50 and p99 at the top are the worst of all rates.

    \b
    innbox bench latency
    innbox bench latency --mode exactly-once --rate 200 --json
    """
    from ops.bench import bench_latency

    with bench_environment() as (settings, logs, report):
        found = bench_latency(settings, logs, report, rates=rates, seconds=seconds, mode=mode)
    show(found, as_json=as_json)


@bench.command()
@bounded("--writers", 1, 100, 16)
@bounded("--seconds", 0.1, 600, 5)
@rounds_option
@as_json
def writers(writers: int, seconds: float, rounds: int, as_json: bool) -> None:
    """Count writers' commits with the doorbell, beside the same writers without a wake-up.

    For contrast also with NOTIFY in each transaction. --seconds is the length of one turn.

    \b
    innbox bench writers
    innbox bench writers --writers 32 --seconds 10 --json
    """
    from ops.bench import bench_writers

    with bench_environment() as (settings, _, report):
        found = bench_writers(settings, report, writers=writers, seconds=seconds, rounds=rounds)
    show(found, as_json=as_json)


@bench.command()
@bounded("--backlog", 1_000, 5_000_000, 200_000)
@bounded("--transactions", 2, 2_000, 1_000)
@rounds_option
@as_json
def contention(backlog: int, transactions: int, rounds: int, as_json: bool) -> None:
    """Drain while one or many transactions are open, beside draining with none open.

    Your own Postgres must allow as many prepared transactions (max_prepared_transactions).

    \b
    innbox bench contention
    innbox bench contention --transactions 100 --json
    """
    from ops.bench import bench_contention
    from ops.bench.contention import SERVER

    with bench_environment(SERVER) as (settings, _, report):
        found = bench_contention(
            settings, report, backlog=backlog, transactions=transactions, rounds=rounds
        )
    show(found, as_json=as_json)


@bench.command()
@bounded("--messages", 1_000, 1_000_000, 20_000)
@bounded("--one-by-one", 100, 100_000, 1_000)
@rounds_option
@as_json
def consumer(messages: int, one_by_one: int, rounds: int, as_json: bool) -> None:
    """Apply requests in batches, beside one transaction per message.

    \b
    innbox bench consumer
    innbox bench consumer --messages 50000 --json
    """
    from ops.bench import bench_consumer

    opens_on = datetime.now(UTC).date() + timedelta(days=1)
    with bench_environment() as (settings, _, report):
        found = bench_consumer(
            settings, opens_on, report, total=messages, one_by_one=one_by_one, rounds=rounds
        )
    show(found, as_json=as_json)


@bench.command()
@bounded("--history", 1_000, 100_000_000, 10_000_000)
@bounded("--days", 1, 365, 30)
@bounded("--backlog", 1_000, 5_000_000, 200_000)
@bounded("--seconds", 0.1, 600, 10)
@rounds_option
@as_json
def growth(
    history: int, days: int, backlog: int, seconds: float, rounds: int, as_json: bool
) -> None:
    """Relay from a log with a long history in daily partitions, beside an empty one.

    Ten million messages of history take some minutes to make and up to 10 GB of disk. --seconds is the
    length of one latency measurement.

    \b
    innbox bench growth
    innbox bench growth --history 1000000 --json
    """
    from ops.bench import bench_growth
    from ops.bench.growth import SERVER

    with bench_environment(SERVER) as (settings, logs, report):
        found = bench_growth(
            settings,
            logs,
            report,
            history=history,
            days=days,
            backlog=backlog,
            seconds=seconds,
            rounds=rounds,
        )
    show(found, as_json=as_json)


@bench.command()
@bounded("--messages", 100, 1_000_000, 2_000)
@bounded("--idle", 0.1, 3_600, 60)
@rounds_option
@as_json
def cost(messages: int, idle: float, rounds: int, as_json: bool) -> None:
    """Measure the database's cost: WAL for each event, dead rows, queries of an idle relay.

    The ratio is the WAL of a plain table of the same messages to the WAL of the outbox.

    \b
    innbox bench cost
    innbox bench cost --idle 300 --json
    """
    from ops.bench import bench_cost

    with bench_environment() as (settings, logs, report):
        found = bench_cost(settings, logs, report, count=messages, idle_s=idle, rounds=rounds)
    show(found, as_json=as_json)
