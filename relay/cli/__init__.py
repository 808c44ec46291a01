"""`innbox-relay`: the relay of one database's outbox, and what its operators need.

Commands print for people, and with `--json` one object for programs. Exit codes:

0    all is well
1    a check failed, or what was asked for was refused
2    the command could not be carried out: how it was called, its environment, a server that is away
130  interrupted
141  the reader of the output hung up
"""

import sys

from relay.cli.exits import run
from relay.cli.root import PROGRAM, cli


def main() -> None:
    sys.exit(run(cli, PROGRAM))


__all__ = ["cli", "main"]
