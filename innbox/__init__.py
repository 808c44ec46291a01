"""innbox, the application: the command `innbox` begins here.

Its packages have plain names (`api`, `domain`, `migrations` …), since nobody imports them but itself. So
another project on the same path may have one of the same name. That is noticed before any is imported.
"""

import sys

from innbox.own_packages import foreign_packages

FAILED = 2  # as for any command that cannot be carried out
ADVICE = (
    "Install innbox in a virtual environment of its own, and have no other project in PYTHONPATH."
)


def main() -> None:
    """Run the command line, unless Python would take another project's code for innbox's."""
    if found := foreign_packages():
        sys.stderr.write("\n".join([*found, ADVICE, ""]))
        sys.exit(FAILED)
    from ops.cli import main as run  # noqa: PLC0415 - nothing of innbox before the check

    run()
