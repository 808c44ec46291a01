"""Times and ids as a person types them, and who the person is."""

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Instant(click.ParamType[datetime | timedelta]):
    """A point of time, in UTC unless it says otherwise; or a duration before a now of the caller's."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | timedelta:
        given = str(value)
        if match := re.fullmatch(r"(\d{1,6})([smhd])", given):
            ago = timedelta(**{_UNITS[match[2]]: int(match[1])})
            if ago > datetime.now(UTC) - datetime.min.replace(tzinfo=UTC):
                self.fail("there were no years then", param, ctx)
            return ago
        try:
            instant = datetime.fromisoformat(given)
        except ValueError:
            self.fail(f"{given!r} is neither ISO 8601 nor like 90s, 30m, 2h or 7d", param, ctx)
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


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


def person() -> str:
    """Return who is at the terminal, for the record: the user of the operating system, and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as somebody without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
