"""Which version of the schema a database has, by a mark of each version, whatever brought it there."""

from sqlalchemy import Connection, text

# In the order of the versions; a version never changes, so neither does its mark.
MARKS = (
    "to_regclass('outbox.message') IS NOT NULL",
    "to_regclass('outbox.relay') IS NOT NULL",
    "to_regclass('outbox.replay') IS NOT NULL",
    "to_regprocedure('outbox.make_partition(date)') IS NOT NULL",
    "EXISTS (SELECT FROM pg_constraint WHERE conname = 'ex_shard_ranges_apart')",
    "to_regclass('outbox.acknowledgement') IS NOT NULL",
    "to_regclass('outbox.scheduled_job') IS NOT NULL",
)


def installed_version(connection: Connection) -> int:
    """Return the version; 0 if there is no outbox. It counts up to the first mark that is missing."""
    found = connection.execute(text(f"SELECT {', '.join(MARKS)}")).one()
    return list(found).index(False) if False in found else len(MARKS)
