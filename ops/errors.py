"""What is quoted of logs below a message that says why a command could not be carried out."""

from pathlib import Path

LAST_LINES = 15


def quoted(*logs: Path) -> str:
    """Return the end of each log under its name, to be put below a message."""
    return "".join(f"\n{log}:\n{_ending(log)}" for log in logs)


def _ending(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (nothing was written)"
