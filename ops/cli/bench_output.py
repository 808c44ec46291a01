"""The servers, settings and output that the commands of `innbox bench` share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innbox_process.commands import Report
from innbox_process.logs import configure_logs
from ops.cli.tempdir import temporary
from ops.environment import settings_for
from relay.cli.output import print_json, print_status, print_table, progress
from runtime.settings import Settings

if TYPE_CHECKING:
    from ops.bench import Measured


@contextmanager
def bench_environment(
    postgres_settings: Mapping[str, object] | None = None,
) -> Iterator[tuple[Settings, Path, Report]]:
    """Yield settings with this run's own prefix, a directory for logs, and progress."""
    from ops.stack import servers

    with (
        temporary("innbox-bench-") as data,
        servers(data, print_status, brokers=1, postgres_settings=postgres_settings),
        progress() as report,
    ):
        prefix = f"bench-{datetime.now(UTC):%Y%m%d%H%M%S}-"
        settings = settings_for(data, kafka_prefix=prefix, log_level="ERROR")
        configure_logs(settings, "bench")
        yield settings, data / "logs", report


def show(found: "Measured", *, as_json: bool) -> None:
    """Print tables, or one JSON object."""
    if as_json:
        print_json(found.as_dict())
        return
    for name, comparison in (found.comparisons | found.contrasts).items():
        columns = ("", "unit", "median", "rounds")
        print_table(f"{found.bench}: {name.replace('_', ' ')}", columns, comparison.rows())
    figures = dict(found.figures)
    if rates := figures.pop("rates", []):
        print_table(
            f"{found.bench} at each rate",
            tuple(name.replace("_", " ") for name in rates[0]),
            [tuple(_cell(value) for value in each.values()) for each in rates],
        )
    print_table(
        found.bench,
        ("", ""),
        [(name.replace("_", " "), _cell(value)) for name, value in figures.items()],
    )


def _cell(value: Any) -> str:  # noqa: ANN401 - a figure or a word
    return f"{round(value, 2):,}" if isinstance(value, int | float) else str(value)
