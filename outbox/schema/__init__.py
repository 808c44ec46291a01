"""The schema of the outbox, by version: plain statements, to be run in order by any migration tool.

A version is never changed once it has been released; a later one changes what it made.
"""

from collections.abc import Iterator

from outbox.schema import v1, v2

VERSIONS = (v1, v2)
LATEST = len(VERSIONS)


def upgrades(*, since: int = 0, to: int = LATEST) -> Iterator[str]:
    """Return the statements that bring the schema from a version to a later one; 0 is none at all."""
    for version in VERSIONS[since:to]:
        yield from version.UPGRADE


def downgrades(*, since: int = LATEST, to: int = 0) -> Iterator[str]:
    """Return the statements that take versions back, with what is in them."""
    for version in reversed(VERSIONS[to:since]):
        yield from version.DOWNGRADE
