"""`python -m outbox.schema`: the schema as a file of SQL, for any tool that runs one.

python -m outbox.schema | psql "$DATABASE_URL"       all of it
python -m outbox.schema --since 6 > upgrade.sql      what came after version 6
python -m outbox.schema --down --to 0                drops the outbox, with every message in it
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from outbox.schema import downgrades, upgrades


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the statements as one transaction; exit code 2 for versions that are not known."""
    parser = ArgumentParser(
        "python -m outbox.schema", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--since", type=int, help="the version that there is; by default none")
    there_is_to_be = "the version that there is to be; by default the latest"
    parser.add_argument("--to", type=int, help=there_is_to_be)
    back = "go back; by default from the latest to none"
    parser.add_argument("--down", action="store_true", help=back)
    given = parser.parse_args(arguments)
    bounds = {"since": given.since, "to": given.to}
    bounds = {name: version for name, version in bounds.items() if version is not None}
    try:
        statements = downgrades(**bounds) if given.down else upgrades(**bounds)
    except ValueError as error:
        parser.error(str(error))
    for statement in ["BEGIN", *statements, "COMMIT"]:
        sys.stdout.write(f"{statement.strip()};\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
