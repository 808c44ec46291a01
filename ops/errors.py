"""What a command says when it cannot be carried out."""

from pathlib import Path

LAST_LINES = 15


class CommandError(Exception):
    """A message for the person at the terminal, which says what to do next."""


def quoted(*logs: Path) -> str:
    """Return the end of each log under its name, to be put below a message."""
    return "".join(f"\n{log}:\n{_ending(log)}" for log in logs)


def _ending(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (nothing was written)"
