"""Rebase: after a restore into another cluster, cursors are made anew; no message is lost.

A stored message is one of two. A *native* one was written here: by its writer, so its row's `xmin` is
the lower half of its `xid`, and since the table was made here, so its `xid` is not below that of the
transaction that made it (`born`). A *restored* one came with the dump. What of those is published, the
old cursors tell: a blocked key's for the messages of that key, the shard's for all others. A native one
is unpublished, since no relay publishes by a foreign cursor.

Let `own_xid` be the rebase's own transaction id and `least` the least id of a native message, or else
`own_xid`. Every shard's new cursor is the snapshot `least:least:`, which shows what is below `least` and
nothing else:

- a restored and published message keeps an `xid` below `least`, or gets 2, which is below any: shown;
- a restored and unpublished message gets `own_xid`: not shown, as `own_xid` >= `least`;
- a native message has at least `least`: not shown; and so has every later one, as its id is above
  `own_xid`;
- all that is not shown is of finished transactions (writers are locked out meanwhile, and `own_xid` ends
  with the commit), so the first batch finds it, once, and in the order of positions. A restored
  message lies below the native ones, since the sequence was restored, too; so each key is in order.

What a blocked key held back is unpublished like all else, so there is nothing left to hold back: it is
tried again, in its place. `floor` (see `outbox.reader.difference`) is below every position that is not
shown, now or later.

If all that the cursors have seen, and every restored `xid`, is below `born`, then transaction ids go on
where the old cluster's ended (as after pg_upgrade) or further on. Then the old cursors hide nothing
that is native and are right as they are, and the identifier of the cluster is all that changes.

The sequence of positions may have been left behind (see `outbox.admin.sequences`), and writers may have
come before the rebase. What they appended lies too low: among restored messages, perhaps at the
position of one. It is given new positions, behind them all and in its order. It is known by its time,
which is later than that of any message above the sequence. Should clocks disagree, the order may, too;
but nothing is lost, since the floors are taken back to the log's beginning.

What may be published again: the messages of one old transaction that happens to have had the id of the
transaction which restored them; they look native. And whatever the relay published after the dump was
made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from outbox.admin.partitions import PARTITIONS
from outbox.admin.sequences import advance_sequence, sequences_behind
from outbox.errors import ForeignCursor, StillRelayed, TransactionIdsRestarted
from outbox.reader.cluster_identity import check_cluster_identity
from outbox.reader.cursor import IS_PUBLISHED
from outbox.tables import SCHEMA, position

LOCK_TIMEOUT_MS = 2_000

Report = Callable[[str, int, int | None], None]

# Writers of the moment end first, and new ones wait; readers are not disturbed.
LOCK = text("LOCK TABLE outbox.message IN SHARE ROW EXCLUSIVE MODE")
LOCK_SHARDS = text("""
    SELECT id, owner, leased_until, leased_until > clock_timestamp() AS is_leased
    FROM outbox.shard ORDER BY id FOR UPDATE
""")

# When the table was made: by the row of a column that nobody can alter. As all row versions it bears the
# lower half of an id, which is taken for the latest that it can be.
IDS = text("""
    SELECT own_xid, own_xid - ((own_xid - attribute.xmin::text::bigint) & 4294967295) AS born
    FROM pg_attribute AS attribute, (SELECT pg_current_xact_id()::text::bigint AS own_xid) AS here
    WHERE attrelid = 'outbox.message'::regclass AND attname = 'xmin'
""")

IDS_GO_ON = text("""
    SELECT NOT EXISTS (
        SELECT FROM (
            SELECT snapshot, batch_snapshot, next_xid FROM outbox.shard
            UNION ALL SELECT snapshot, batch_snapshot, next_xid FROM outbox.blocked_key
        ) AS cursor
        WHERE greatest(pg_snapshot_xmax(snapshot), pg_snapshot_xmax(batch_snapshot), next_xid)
            > CAST(:born AS xid8)
    ) AND NOT EXISTS (
        SELECT FROM outbox.message WHERE xid >= CAST(:born AS xid8) AND xmin <> xid::xid
    )
""")

_IS_NATIVE = "message.xid >= CAST(:born AS xid8) AND message.xmin = message.xid::xid"
_IS_PUBLISHED = f"NOT ({_IS_NATIVE}) AND {IS_PUBLISHED}"

PLAN = text(f"""
    SELECT topic, count(*) FILTER (WHERE is_published) AS published,
           count(*) FILTER (WHERE NOT is_published) AS unpublished,
           min(position) FILTER (WHERE NOT is_published) AS lowest
    FROM (SELECT topic, position, {_IS_PUBLISHED} AS is_published FROM outbox.message) AS judged
    GROUP BY topic ORDER BY topic
""")

LEAST_NATIVE = text(f"""
    SELECT xid::text::bigint FROM outbox.message AS message WHERE {_IS_NATIVE} ORDER BY xid LIMIT 1
""")

REWRITE = f"""
    UPDATE outbox.{{partition}} AS message
    SET xid = CASE WHEN {_IS_PUBLISHED} THEN '2'::xid8 ELSE CAST(:own_xid AS xid8) END
    WHERE NOT ({_IS_NATIVE}) AND NOT (xid < CAST(:least AS xid8) AND {_IS_PUBLISHED})
"""

LAST_POSITION = text("""
    SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM outbox.message_position_seq
""")

_NATURALISED = """
    UPDATE outbox.shard
    SET system_identifier = (pg_control_system()).system_identifier, epoch = epoch + 1,
        owner = NULL, leased_until = NULL, reserved_for = NULL, reserved_until = NULL,
        touched = NULL, touches = 0
"""
KEEP_CURSORS = text(_NATURALISED)
RENEW_CURSORS = text(f"""
    {_NATURALISED}, snapshot = CAST(:snapshot AS pg_snapshot), batch_snapshot = NULL, position = NULL,
        floor = :floor, next_xid = CAST(:least AS xid8), number = number + 1
""")
FREE_KEYS = text("DELETE FROM outbox.blocked_key")

# In the order of their positions, which the sequence follows since it was set back.
RENUMBER = text("""
    WITH low AS (
        SELECT position, created_at FROM outbox.message
        WHERE position < :next_value
          AND created_at > (SELECT max(created_at) FROM outbox.message WHERE position >= :next_value)
        ORDER BY position
    ), renumbered AS (
        SELECT position, created_at, nextval('outbox.message_position_seq') AS later FROM low
    )
    UPDATE outbox.message SET position = later FROM renumbered
    WHERE message.position = renumbered.position AND message.created_at = renumbered.created_at
""")
FORGET_FLOORS = text(f"{_NATURALISED}, floor = 0, number = number + 1")
FORGET_FLOORS_OF_KEYS = text("UPDATE outbox.blocked_key SET floor = 0")


@dataclass(frozen=True, slots=True)
class RebasePlan:
    """How many messages are published and unpublished, by topic, and whether cursors may stay.

    `lowest` is the position of the first unpublished one.
    """

    published: dict[str, int]
    unpublished: dict[str, int]
    lowest: int | None
    ids_go_on: bool


def plan_rebase(connection: Connection) -> RebasePlan:
    """Tell what a rebase would find now. Looks at every message and locks nothing."""
    return _plan(connection, {"born": str(connection.execute(IDS).one().born)})


def rebase(
    connection: Connection, *, same_transaction_ids: bool = False, report: Report = lambda *_: None
) -> int | None:
    """Make the cursors this cluster's, in the caller's transaction; returns how many rows it rewrote.

    None if they are so already. Sequences of the outbox that are behind are advanced in any case, and
    what was appended at positions too low is moved behind the rest. Writers wait meanwhile, and a lock
    that is not had in `LOCK_TIMEOUT_MS` raises. Raises `StillRelayed` while a relay holds a lease; with
    `same_transaction_ids`, which promises to rewrite no transaction id and no cursor,
    `TransactionIdsRestarted` if that would lose some.
    """
    connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.execute(text("SET LOCAL statement_timeout = 0"))  # a log may be large
    connection.execute(LOCK)
    for shard in connection.execute(LOCK_SHARDS):
        if shard.is_leased:
            raise StillRelayed(shard.id, shard.owner, shard.leased_until)

    behind = sequences_behind(connection, SCHEMA)
    advanced = [advance_sequence(connection, sequence) for sequence in behind]
    rewritten = _make_native(connection, report, keep_cursors=same_transaction_ids)
    for sequence in advanced:
        if sequence and sequence.name == position.name:
            connection.execute(RENUMBER, {"next_value": sequence.next_value})
            connection.execute(FORGET_FLOORS)
            connection.execute(FORGET_FLOORS_OF_KEYS)
    return rewritten


def _make_native(connection: Connection, report: Report, *, keep_cursors: bool) -> int | None:
    try:
        check_cluster_identity(connection)
    except ForeignCursor:
        ids = connection.execute(IDS).mappings().one()
    else:
        return None

    values = {name: str(xid) for name, xid in ids.items()}
    report("looking at every message", 0, None)
    plan = _plan(connection, values)
    if plan.ids_go_on:
        connection.execute(KEEP_CURSORS)
        return 0
    if keep_cursors:
        raise TransactionIdsRestarted

    least = connection.execute(LEAST_NATIVE, values).scalar_one_or_none() or ids["own_xid"]
    values |= {"least": str(least), "snapshot": f"{least}:{least}:"}
    rewritten = _rewrite(connection, values, report)
    last: int = connection.execute(LAST_POSITION).scalar_one()
    floor = last if plan.lowest is None else min(last, plan.lowest - 1)
    connection.execute(RENEW_CURSORS, values | {"floor": floor})
    connection.execute(FREE_KEYS)
    return rewritten


def _plan(connection: Connection, values: dict[str, str]) -> RebasePlan:
    rows = connection.execute(PLAN, values).all()
    return RebasePlan(
        published={row.topic: row.published for row in rows},
        unpublished={row.topic: row.unpublished for row in rows},
        lowest=min((row.lowest for row in rows if row.lowest is not None), default=None),
        ids_go_on=connection.execute(IDS_GO_ON, values).scalar_one(),
    )


def _rewrite(connection: Connection, values: dict[str, Any], report: Report) -> int:
    names = connection.execute(PARTITIONS).scalars().all()
    rewritten = 0
    for number, name in enumerate(names):
        report("rewriting partitions", number, len(names))
        rewritten += connection.execute(text(REWRITE.format(partition=name)), values).rowcount
    report("rewriting partitions", len(names), len(names))
    return rewritten
