"""The backlog: how many messages wait to be published, at a cost that does not grow with it."""

from sqlalchemy import Connection, text

from outbox.reader.cursor import covers

# From the newest down, since that is where a backlog is, and no further than the cursor furthest
# behind: so a log that is wholly published costs next to nothing, and one that is not costs no more
# than the limit.
BACKLOG = text(f"""
    SELECT id, count(*) AS messages FROM (
        SELECT position, xid, key_hash FROM outbox.message
        WHERE position > (SELECT min(coalesce(position, floor)) FROM outbox.shard)
        ORDER BY position DESC LIMIT :newest
    ) AS message
    JOIN outbox.shard ON key_hash >= hash_from AND key_hash < hash_to
    WHERE NOT {covers("shard")}
    GROUP BY id
""")


def count_backlog(connection: Connection, *, newest: int = 100_000) -> int:
    """Count the messages beyond the saved cursors, among so many of the newest.

    An estimate: late committers may lie lower than it looks, and what a blocked key holds back is not
    counted once its shard has passed it.
    """
    return sum(backlogs(connection, newest=newest).values())


def backlogs(connection: Connection, *, newest: int = 100_000) -> dict[int, int]:
    """Return the same by shard id; a shard without a backlog is not in it."""
    rows = connection.execute(BACKLOG, {"newest": newest})
    return {row.id: row.messages for row in rows}
