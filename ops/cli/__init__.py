"""`innbox`: what a person runs.

Commands print for people, and with `--json` one object for programs. Exit codes:

0    all is well
1    what was checked does not hold, or what was asked for was refused, by the API or by the rooms
2    the command could not be carried out: how it was called, its environment, nobody who answers
3    accepted, and not answered within `--wait`
130  interrupted
141  the reader of the output hung up
"""

import sys

from ops.cli.root import cli
from ops.cli.run import run


def main() -> None:
    sys.exit(run(cli))


__all__ = ["cli", "main"]
