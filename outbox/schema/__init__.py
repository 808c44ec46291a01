"""The schema of the outbox, by version: plain statements, to be run in order by any migration tool.

A version is never changed once it has been released; a later one changes what it made. With Alembic,
`outbox.schema.operations` runs them as a step of a migration, and the functions named `without_…` tell
its autogenerate what to leave alone.
"""

from sqlalchemy import Connection, text

from outbox.schema import v1, v2, v3, v4, v5, v6, v7
from outbox.schema.autogenerate import know_types, without_outbox, without_partitions
from outbox.schema.rights import grants

__all__ = ["LATEST", "downgrades", "grants", "installed_version", "know_types", "upgrades"]
__all__ += ["without_outbox", "without_partitions"]

VERSIONS = (v1, v2, v3, v4, v5, v6, v7)
LATEST = len(VERSIONS)

# What each version made first; a version never changes, so neither does its mark.
MARKS = (
    "to_regclass('outbox.message') IS NOT NULL",
    "to_regclass('outbox.relay') IS NOT NULL",
    "to_regclass('outbox.replay') IS NOT NULL",
    "to_regprocedure('outbox.make_partition(date)') IS NOT NULL",
    "EXISTS (SELECT FROM pg_constraint WHERE conname = 'ex_shard_ranges_apart')",
    "to_regclass('outbox.acknowledgement') IS NOT NULL",
    "to_regclass('outbox.scheduled_job') IS NOT NULL",
)


def upgrades(*, since: int = 0, to: int = LATEST) -> list[str]:
    """Return the statements that bring the schema from a version to a later one; 0 is none at all.

    To be run in their order, in one transaction. Raises `ValueError` for versions that are not known.
    """
    _check(since, to)
    return [statement for version in VERSIONS[since:to] for statement in version.UPGRADE]


def downgrades(*, since: int = LATEST, to: int = 0) -> list[str]:
    """Return the statements that take versions back, with what is in them.

    To be run in their order, in one transaction. Raises `ValueError` for versions that are not known.
    """
    _check(to, since)
    latest_first = reversed(VERSIONS[to:since])
    return [statement for version in latest_first for statement in version.DOWNGRADE]


def installed_version(connection: Connection) -> int:
    """Return the version that a database has, whatever brought it there; 0 if there is no outbox."""
    found = connection.execute(text(f"SELECT {', '.join(MARKS)}")).one()
    return [*found, False].index(False)


def _check(earlier: int, later: int) -> None:
    if not 0 <= earlier <= later <= LATEST:
        raise ValueError(
            f"no way between versions {earlier} and {later}: this outbox knows 0 to {LATEST}"
        )
