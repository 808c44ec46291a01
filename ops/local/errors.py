"""The one error of this package: its message is for a person and says what to do."""

from pathlib import Path

from innbox_process.commands import CommandError
from ops.errors import quoted


class LocalError(CommandError):
    """An embedded server cannot do what was asked."""


def failed(what: str, *logs: Path) -> LocalError:
    """The error of a server that did not start: names its logs and quotes their ends."""
    return LocalError(f"{what}. Its last lines are below.{quoted(*logs)}")
