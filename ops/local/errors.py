"""The one error of this package: its message is for a person and says what to do."""

from pathlib import Path

from ops.errors import CommandError

LAST_LINES = 15


class LocalError(CommandError):
    """An embedded server cannot do what was asked."""


def failed(what: str, *logs: Path) -> LocalError:
    """The error of a server that did not start: names its logs and quotes their ends."""
    quoted = "".join(f"\n{log}:\n{_ending(log)}" for log in logs)
    return LocalError(f"{what}. Its last lines are below.{quoted}")


def _ending(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (nothing was written)"
