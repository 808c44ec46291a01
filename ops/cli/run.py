"""Running `innbox`: what `relay.cli.exits` does, and what may go wrong with the API besides.

The codes are those of `ops.cli`.
"""

import click

from relay.cli import exits
from relay.cli.exits import FAILED

__all__ = ["FAILED", "expected", "in_words", "run"]


def run(cli: click.Command) -> int:
    """Run the command line and return the exit code."""
    return exits.run(cli, "innbox", expected=expected, in_words=in_words, is_refusal=_is_refusal)


def expected() -> exits.Expected:
    """As `relay.cli.exits.expected`, and what the API may answer."""
    import httpx

    from innbox_client import Problem, Unavailable

    return (*exits.expected(), Problem, Unavailable, httpx.TransportError)


def in_words(error: Exception) -> str:
    """Say what went wrong, for one of the expected errors."""
    from innbox_client import Problem, Unavailable
    from ops.cli.api_client import explained

    if isinstance(error, Problem | Unavailable):
        return explained(error)
    return exits.in_words(error)


def _is_refusal(error: Exception) -> bool:
    from ops.cli.api_client import is_refusal

    return is_refusal(error)
