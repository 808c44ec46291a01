"""The command `innbox`.

Commands print tables and lines for people, and with `--json` one object for programs. Exit codes:

0    success
1    a check failed, or the API or the rooms refused the request
2    the command failed: its arguments, its environment, or a server that does not answer
3    accepted, but not answered within `--wait`
130  interrupted
141  the reader of the output closed the pipe
"""

import sys

from ops.cli.root import cli
from relay.cli import exits


def main() -> None:
    sys.exit(exits.run(cli, "innbox", expected=expected, in_words=in_words, is_refusal=is_refusal))


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


def is_refusal(error: Exception) -> bool:
    """Return whether the API refused the request itself.

    A missing or invalid token (401) is no refusal of the request, and neither is another program's page.
    """
    import httpx

    from innbox_client import Problem

    return (
        isinstance(error, Problem)
        and httpx.codes.is_client_error(error.status)
        and error.status != httpx.codes.UNAUTHORIZED
        and error.type != "about:blank"
    )


__all__ = ["cli", "main"]
