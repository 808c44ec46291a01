"""The rights of roles that own nothing, the writers' and the relay's, as plain statements.

To be run by the owner of the tables after the latest version, in one transaction. Repeatable.
"""

from collections.abc import Sequence

_WRITERS = """
    GRANT USAGE ON SCHEMA outbox TO {role};
    GRANT SELECT ON outbox.topic TO {role};
    GRANT USAGE ON SEQUENCE outbox.message_position_seq TO {role};
    GRANT INSERT (message_id, topic, key, value, headers) ON outbox.message TO {role}
"""

# The relay moves cursors, but makes no shards. It makes and drops partitions through two functions, which
# run as their owner; so nobody else may call them.
_RELAYS = """
    REVOKE ALL ON FUNCTION outbox.make_partition(date),
        outbox.drop_partitions(date[], pg_snapshot) FROM PUBLIC;
    ALTER FUNCTION outbox.make_partition(date) SECURITY DEFINER;
    ALTER FUNCTION outbox.drop_partitions(date[], pg_snapshot) SECURITY DEFINER;
    GRANT EXECUTE ON FUNCTION outbox.make_partition(date),
        outbox.drop_partitions(date[], pg_snapshot) TO {role};
    GRANT USAGE ON SCHEMA outbox TO {role};
    GRANT SELECT ON outbox.message, outbox.message_default TO {role};
    GRANT SELECT ON SEQUENCE outbox.message_position_seq TO {role};
    GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.relay, outbox.blocked_key TO {role};
    GRANT SELECT,
        UPDATE (snapshot, batch_snapshot, position, floor, next_xid, number, epoch, owner,
                leased_until, touched, touches)
        ON outbox.shard TO {role};
    GRANT SELECT, INSERT, UPDATE ON outbox.scheduled_job TO {role}
"""


def grants(*, relays: Sequence[str] = (), writers: Sequence[str] = ()) -> list[str]:
    """Return the statements that give these roles, which exist, what they need and no more."""
    scripts = [_WRITERS.format(role=_quoted(role)) for role in writers]
    scripts += [_RELAYS.format(role=_quoted(role)) for role in relays]
    return [part.strip() for script in scripts for part in script.split(";")]


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'
