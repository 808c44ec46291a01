"""Why servers and processes on this machine cannot do what was requested, with the end of their logs."""

from pathlib import Path

from innbox_process.commands import CommandError

LAST_LINES = 15


class LocalError(CommandError):
    """An embedded server cannot do what was requested; the message ends with what to do next."""


def failed(what: str, *logs: Path) -> LocalError:
    """Return the error of a server that did not start, with the last lines of its logs."""
    return LocalError(f"{what}. The last lines of its logs are below.{quoted(*logs)}")


def quoted(*logs: Path) -> str:
    """Return the end of each log under its name, to be put below a message."""
    return "".join(f"\n{log}:\n{_ending(log)}" for log in logs)


def _ending(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (nothing was written)"
