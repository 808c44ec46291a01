"""`innbox bench`: its commands are the functions of `ops.bench`, with their options and help."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from innbox_process.logs import configure_logs
from ops.cli.root import cli
from ops.cli.servers import temporary
from ops.environment import settings_for
from relay.cli.lazy import LazyGroup, Listed
from relay.cli.output import as_json, print_json, print_status, print_table, progress

if TYPE_CHECKING:
    from ops.bench.measure import Measured

BENCHES = {
    "api": "Reserve over HTTP with two API processes, beside pgbench with the same SQL.",
    "consumer": "Apply requests in batches, beside one transaction per message.",
    "contention": "Drain while one or many transactions are open, beside draining with none open.",
    "cost": "Measure the database's cost: WAL for each event, dead rows, queries of an idle relay.",
    "growth": "Relay from a log with a long history in daily partitions, beside an empty one.",
    "inventory": "Load calendars in bulk over HTTP, each night a line, and search all rooms for a stay.",
    "latency": "Time events from commit to consumer at a steady rate, through a relay process.",
    "relay": "Drain a backlog with one relay, beside the bare producer loop with the same headers.",
    "saga": "Book over HTTP to the final status, beside save-then-send and a polling outbox.",
    "writers": "Count writers' commits with the doorbell, beside the same writers without a wake-up.",
}
LISTED = {name: Listed("ops.bench", name, summary) for name, summary in BENCHES.items()}


class _Benches(LazyGroup):
    listed = LISTED

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in LISTED:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"ops.bench.{name}")
        return _command(cmd_name, getattr(module, f"bench_{name}"), getattr(module, "SERVER", None))


@cli.group(cls=_Benches)
def bench() -> None:
    """Measure performance beside a baseline in the same run.

    A benchmark uses the servers of the environment, else embedded ones in a temporary directory, and
    always its own databases and topics. A ratio above 1 means that innbox is better than the baseline.
    """


def _command(
    name: str, measure: "Callable[..., Measured]", server: Mapping[str, object] | None
) -> click.Command:
    """Return the command of a benchmark, on an embedded server with these settings."""

    @wraps(measure)
    def command(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - the benchmark's own
        from ops.bench.environment import Run
        from ops.stack import servers

        with (
            temporary("innbox-bench-") as data,
            servers(data, print_status, brokers=1, postgres_settings=server),
            progress() as report,
        ):
            prefix = f"bench-{datetime.now(UTC):%Y%m%d%H%M%S}-"
            settings = settings_for(data, kafka_prefix=prefix, log_level="ERROR")
            configure_logs(settings, "bench")
            found = measure(Run(settings, data / "logs", report), **options)
        if as_json:
            print_json(found.as_dict())
        else:
            print_measured(found)

    return as_json(click.command(name)(command))


def print_measured(found: "Measured") -> None:
    """Print tables for people."""
    for name, comparison in (found.comparisons | found.contrasts).items():
        columns = ("", "unit", "median", "rounds")
        print_table(f"{found.bench}: {_words(name)}", columns, comparison.rows())
    figures = dict(found.figures)
    if rates := figures.pop("rates", []):
        rows = [tuple(map(_cell, each.values())) for each in rates]
        print_table(f"{found.bench} at each rate", tuple(map(_words, rates[0])), rows)
    if found.baselines:
        _print_side_by_side(found.bench, {"innbox": figures, **found.baselines})
        return
    rows = [(_words(name), _cell(value)) for name, value in figures.items()]
    print_table(found.bench, ("", ""), rows)


def _print_side_by_side(bench: str, contenders: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a column for each contender, and a row for each figure, those within figures included."""
    columns = [_flat(figures) for figures in contenders.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(column.get(name, "") for column in columns)) for name in names]
    print_table(bench, ("", *map(_words, contenders)), rows)


def _flat(figures: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in figures.items():
        within = value if isinstance(value, dict) else {"": value}
        flat |= {_words(f"{name} {part}".strip()): _cell(one) for part, one in within.items()}
    return flat


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:  # noqa: ANN401 - a figure or a word
    if value is None:
        return "not seen"
    return f"{round(value, 2):,}" if isinstance(value, int | float) else str(value)
