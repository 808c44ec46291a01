"""Ids of messages on the command line, one by one or from a file: one a line, `#` begins a comment."""

from collections.abc import Iterable, Iterator
from uuid import UUID

import click


def _read(context: click.Context, param: click.Parameter, name: str | None) -> tuple[UUID, ...]:
    if name is None:
        return ()
    try:
        with click.open_file(name, encoding="utf-8-sig") as file:
            found = tuple(dict.fromkeys(_ids(file)))
    except ValueError as error:
        raise click.BadParameter(str(error), context, param) from error
    if not found:
        raise click.BadParameter(f"{name} has no ids", context, param)
    return found


def _ids(lines: Iterable[str]) -> Iterator[UUID]:
    for number, line in enumerate(lines, start=1):
        given = line.strip()
        if given and not given.startswith("#"):
            try:
                yield UUID(given)
            except ValueError as error:
                raise ValueError(f"line {number}: {given!r} is not a message id") from error


# A file that is named means its ids and nothing else: without any, the other conditions must not be left
# to choose alone.
ids_from = click.option(
    "--ids-from",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    callback=_read,
    help="Those in a file, one id a line; - is standard input.",
)
