"""Output: tables and progress for people on a terminal, JSON for programs, errors on stderr."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from innbox_process.commands import CommandError, Report


class _Console(Console):
    """A console whose reader may hang up: `relay.cli.exits` ends the command then."""

    def on_broken_pipe(self) -> NoReturn:
        self.quiet = True  # what is said while the command ends must not end that as well
        raise BrokenPipeError


# Piped output is for other programs' eyes: wide enough to cut nothing off.
console = _Console(width=None if sys.stdout.isatty() else 250)
errors = _Console(stderr=True)


def confirm(question: str, *, yes: bool, otherwise: str = "") -> None:
    """Have a person agree, unless `yes`; raises `Abort`, and `CommandError` without a terminal."""
    if yes:
        return
    if not errors.is_terminal:
        raise CommandError(f"{question} This is not a terminal; pass --yes to confirm{otherwise}.")
    click.confirm(question, abort=True, err=True)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
yes = click.option("--yes", is_flag=True, help="Do not ask.")


def print_error(program: str, message: str) -> None:
    errors.print(f"[red]{program}:[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_status(message: str) -> None:
    """Tell a person what is going on, beside whatever is printed for programs."""
    errors.print(escape(message), highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:  # noqa: ANN401 - anything that JSON holds
    sys.stdout.write(json.dumps(content, indent=2, default=_jsonable) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console.print(table)


def print_found(
    content: dict[str, Any],
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    as_json: bool,
) -> None:
    """Print the content for a program, or the same as a table for a person."""
    if as_json:
        print_json(content)
    else:
        print_table(title, columns, rows)


@contextmanager
def progress() -> Iterator[Report]:
    """Show progress on a terminal; elsewhere one line for each new piece of work."""
    if not errors.is_terminal:
        yield _lines()
        return

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _lines() -> Report:
    begun: set[str] = set()

    def report(what: str, _done: int, _total: int | None) -> None:
        if what not in begun:
            begun.add(what)
            print_status(f"{what} …")

    return report


def _jsonable(value: object) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value)
