"""`innbox`: what a person runs.

Commands print for people, and with `--json` one object for programs. Exit codes: 0 all is well, 1 what
was checked does not hold, 2 the command could not be carried out, 130 interrupted.
"""

import sys

from ops.cli.root import cli, register
from ops.cli.run import run

register()


def main() -> None:
    sys.exit(run(cli))


__all__ = ["cli", "main"]
