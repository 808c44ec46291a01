"""The command `innbox`.

Commands print tables and lines for people, and with `--json` one object for programs. Exit codes:

0    success
1    a check failed, or the API or the rooms refused the request
2    the command failed: its arguments, its environment, or a server that does not answer
3    accepted, but not answered within `--wait`
130  interrupted
141  the reader of the output closed the pipe
"""

import sys

from ops.cli.faults import expected, in_words, is_refusal
from ops.cli.root import cli
from relay.cli import exits


def main() -> None:
    sys.exit(exits.run(cli, "innbox", expected=expected, in_words=in_words, is_refusal=is_refusal))


__all__ = ["cli", "main"]
