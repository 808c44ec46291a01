"""The options that the commands of `innbox bench` share."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from runtime.settings import RelayMode

_Command = TypeVar("_Command", bound=Callable[..., Any])


def bounded(
    name: str,
    low: float,
    high: float,
    default: float,
    *,
    into: str | None = None,
    help_: str | None = None,
) -> Callable[[_Command], _Command]:
    """Return an option for a number between bounds, for a whole number if `low` is one."""
    type_ = click.IntRange(low, int(high)) if isinstance(low, int) else click.FloatRange(low, high)
    names = (name, into) if into else (name,)
    return click.option(*names, type=type_, default=default, show_default=True, help=help_)


rounds_option = bounded("--rounds", 1, 20, 3, help_="Measured rounds; one more warms up.")
mode_option = click.option(
    "--mode",
    type=click.Choice(get_args(RelayMode)),
    default="at-least-once",
    show_default=True,
    help="The relay's mode.",
)
