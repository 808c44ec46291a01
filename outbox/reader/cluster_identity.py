"""Cluster identity: a cursor is made of transaction ids, and means nothing in another Postgres cluster.

A dump that is restored into another cluster brings its cursors along. There transaction ids begin anew,
so such a cursor may show what was never published, and hide what is new. Two marks tell:

- a cursor bears the system identifier of the cluster whose ids it speaks of;
- the transaction that saves a cursor has an id of its own, which is given out after all that the cursor
  has seen. So a cursor that has seen more than the writer of its row was saved in another history,
  though the identifier be the same: that of a copy, or of a primary that was ahead of the standby it
  failed over to.

The second mark goes with the next write of the row, so it is to be looked for before a claim.

A cursor relies on the sequence of positions, too: what is appended later lies above its floor (see
`outbox.reader.difference`). A copy that brought the messages and left the sequence behind breaks that.
"""

from sqlalchemy import Connection, text

from outbox.errors import ForeignCursor, SequenceBehind

# A row's `xmin` is the lower half of its writer's id. It is widened by an id that is not below it: for
# a row that we see, the snapshot's end, or our own id. Everybody may call `pg_control_system`.
FOREIGN = text("""
    WITH here AS MATERIALIZED (
        SELECT (pg_control_system()).system_identifier AS identifier,
               greatest(pg_snapshot_xmax(pg_current_snapshot()), pg_current_xact_id_if_assigned())
                   ::text::bigint AS next_xid
    )
    SELECT id, system_identifier, identifier, seen_until, saved_by
    FROM outbox.shard, here, LATERAL (
        SELECT greatest(pg_snapshot_xmax(snapshot), pg_snapshot_xmax(batch_snapshot), shard.next_xid)
                   ::text::bigint AS seen_until,
               here.next_xid - ((here.next_xid - shard.xmin::text::bigint) & 4294967295) AS saved_by
    ) AS history
    WHERE system_identifier <> identifier OR seen_until > saved_by
    ORDER BY id LIMIT 1
""")

# No false alarm: the sequence is read later than the snapshot is taken, and only moves on.
BEHIND = text("""
    SELECT last_value + is_called::int AS next_position, highest
    FROM outbox.message_position_seq, (SELECT max(position) AS highest FROM outbox.message) AS log
    WHERE last_value + is_called::int <= highest
""")


def check_cluster_identity(connection: Connection) -> None:
    """Raise `ForeignCursor` if a shard's cursor is not of this cluster's transactions."""
    row = connection.execute(FOREIGN).one_or_none()
    if row is None:
        return

    if row.system_identifier != row.identifier:
        reason = f"{row.system_identifier}; this one is {row.identifier}"
    else:
        reason = f"it has seen transactions up to {row.seen_until}; here {row.saved_by} saved it"
    raise ForeignCursor(row.id, reason)


def check_positions(connection: Connection) -> None:
    """Raise `SequenceBehind` if the next message would get a position that is taken, or below it."""
    if row := connection.execute(BEHIND).one_or_none():
        raise SequenceBehind(row.next_position, row.highest)
