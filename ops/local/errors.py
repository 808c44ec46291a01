"""The one error of this package; its message ends with what to do next."""

from pathlib import Path

from innbox_process.commands import CommandError
from ops.errors import quoted


class LocalError(CommandError):
    """An embedded server cannot do what was requested."""


def failed(what: str, *logs: Path) -> LocalError:
    """Return the error of a server that did not start, with the last lines of its logs."""
    return LocalError(f"{what}. The last lines of its logs are below.{quoted(*logs)}")
