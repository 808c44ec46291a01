"""`innbox inventory load`: many nights of many rooms from a file."""

import os
import stat
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal

import click
import msgspec
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from innbox_client import Format, Innbox, LineRefused, Loaded, Problem, Unavailable
from innbox_client.loading import PATIENCE_S
from innbox_process.commands import CommandError
from ops.cli.api_client import print_found, with_client
from ops.cli.inventory import inventory
from relay.cli.output import errors, print_status, print_table

REFUSED = 1
REFUSED_SHOWN_MAX = 20

_FORMATS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


@inventory.command()
@click.argument("file", type=click.File("rb"))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "csv", "ndjson"]),
    default="auto",
    show_default=True,
    help="auto: by the file's extension, else by its first character.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every refused line to this file, one JSON object a line.",
)
@with_client(PATIENCE_S)
def load(
    innbox: Innbox,
    file: BinaryIO,
    format_: Literal["auto", "csv", "ndjson"],
    report: Path | None,
    as_json: bool,
) -> int:
    """Set nights from a CSV or NDJSON file, a line each; `-` reads standard input.

    Each line is applied or refused by itself. Exit code 1 if any was refused. An interrupted load can be
    repeated from its beginning: a line that is applied twice takes effect once.

    \b
    roomId,from,to,weekdays,capacity,minStay
    7,2027-01-01,2027-02-01,,2,
    7,2027-01-01,2027-02-01,FRI SAT,,2

    \b
    innbox inventory load season.csv
    innbox inventory load season.ndjson --report refused.ndjson
    """
    so_far = Loaded()
    with ExitStack() as shown:
        listeners = [shown.enter_context(_report(report, file))] if report else []
        if errors.is_terminal:
            listeners.append(shown.enter_context(_bar(file)))

        def on_progress(loaded: Loaded) -> None:
            nonlocal so_far
            so_far = loaded
            for listener in listeners:
                listener(loaded)

        try:
            chosen = format_of(file) if format_ == "auto" else format_
            so_far = innbox.load_inventory(file, format=chosen, progress=on_progress)
        except (KeyboardInterrupt, Problem, Unavailable, OSError):
            print_status(
                f"Interrupted after {_counts(so_far)}. It is safe to repeat the whole load."
            )
            raise
    found = {"lines": so_far.lines, "applied": so_far.applied, "refused": so_far.refused}
    print_found(as_json, found, _print, so_far)
    return REFUSED if so_far.refused else 0


def _print(loaded: Loaded) -> None:
    shown = loaded.refused[:REFUSED_SHOWN_MAX]
    if shown:
        rows = [(one.line, one.code, one.field, one.detail, _nights(one)) for one in shown]
        print_table("Refused", ("line", "code", "field", "detail", "nights"), rows)
    if more := len(loaded.refused) - len(shown):
        print_status(
            f"{more:,} more lines were refused; --report FILE writes all of them to a file"
        )
    print_status(f"Loaded: {_counts(loaded)}.")


def _counts(loaded: Loaded) -> str:
    return f"{loaded.lines:,} lines, {loaded.applied:,} applied, {len(loaded.refused):,} refused"


def _nights(refused: LineRefused) -> str:
    return ", ".join(str(night.get("night", "")) for night in refused.nights)


def format_of(file: BinaryIO) -> Format:
    """Return the format by the file's extension, else by its first character."""
    if found := _FORMATS.get(Path(getattr(file, "name", "")).suffix.lower()):
        return found
    begins = file.peek(1) if isinstance(file, BufferedReader) else b""
    return "ndjson" if begins.removeprefix(BOM_UTF8).lstrip().startswith(b"{") else "csv"


@contextmanager
def _report(path: Path, read: BinaryIO) -> Iterator[Callable[[Loaded], None]]:
    """Open the report, and yield a function that appends the lines refused since its last call."""
    if path.exists() and os.path.samestat(path.stat(), os.fstat(read.fileno())):
        raise CommandError(f"--report: {path} is the file to load; choose another file")
    with path.open("wb") as report:
        kept = 0

        def keep(loaded: Loaded) -> None:
            nonlocal kept
            report.writelines(msgspec.json.encode(one) + b"\n" for one in loaded.refused[kept:])
            report.flush()
            kept = len(loaded.refused)

        yield keep


@contextmanager
def _bar(file: BinaryIO) -> Iterator[Callable[[Loaded], None]]:
    """Show on a terminal how many lines are answered, and how many of them refused."""
    status = os.fstat(file.fileno())
    total = status.st_size if stat.S_ISREG(status.st_mode) else None  # a pipe has no size
    columns = (
        TextColumn("loading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bars:
        task = bars.add_task("", total=total)
        yield lambda loaded: bars.update(task, completed=loaded.bytes, description=_counts(loaded))
