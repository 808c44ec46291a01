"""The error of a command that cannot be carried out."""

from pathlib import Path

LAST_LINES = 15


class CommandError(Exception):
    """The message is for the operator and ends with what to do next."""


def quoted(*logs: Path) -> str:
    """Return the last lines of each log under its name, to append to a message."""
    return "".join(f"\n{log}:\n{_ending(log)}" for log in logs)


def _ending(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (nothing was written)"
