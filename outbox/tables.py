"""The tables of the outbox, in the schema `outbox`.

`message` is an append-only log: rows are inserted and never updated, and retention drops whole
partitions, so it collects no dead tuples. It is partitioned by day, with a default partition so that no
insert is ever refused because there is none. Partitions come and go at run time
(`outbox.admin.partitions`) and are therefore no part of this metadata.

Nor are storage parameters, which SQLAlchemy 2.0 has no keyword for: the statements of `outbox.schema`
give the tables that are updated a fillfactor, so that a rewritten row stays on its page and touches no
index.
"""

from functools import partial

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSON, ExcludeConstraint
from sqlalchemy.types import UserDefinedType

SCHEMA = "outbox"

metadata = sa.MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    },
)


class Xid8(UserDefinedType[int]):
    """A 64-bit transaction id, which never wraps around."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


class PgSnapshot(UserDefinedType[str]):
    """Which transactions are visible: `xmin:xmax:xip,…` in text."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "pg_snapshot"


_INSTANT = sa.DateTime(timezone=True)
_KEY = sa.Text(collation="C")
_THIS_CLUSTER = sa.text("(pg_control_system()).system_identifier")
_required = partial(sa.Column, nullable=False)

# CACHE 1: with a larger cache two sessions draw positions in another order than they commit, and two
# writers of one key that take turns under its lock would be published the wrong way round.
position = sa.Sequence("message_position_seq", metadata=metadata, data_type=sa.BigInteger, cache=1)

# Drawn after the transaction's id, so that an id not yet given will have higher positions only.
_AFTER_XID = sa.text(
    "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('outbox.message_position_seq') END"
)

message = sa.Table(
    "message",
    metadata,
    sa.Column("position", sa.BigInteger, server_default=_AFTER_XID),
    _required("xid", Xid8, server_default=sa.text("pg_current_xact_id()")),
    _required("message_id", sa.Uuid),
    _required("topic", sa.Text),
    _required("key", _KEY),
    # Which shard a message belongs to. Generated, so that writers in any language agree.
    _required("key_hash", sa.Integer, sa.Computed("hashtext(key)", persisted=True)),
    _required("value", sa.LargeBinary),
    # json and not jsonb: it is written once, read whole, and never looked into.
    _required("headers", JSON),
    _required("created_at", _INSTANT, server_default=sa.func.now()),
    sa.PrimaryKeyConstraint("position", "created_at"),
    sa.CheckConstraint("key <> ''", name="key_given"),
    sa.Index(None, "xid"),
    postgresql_partition_by="RANGE (created_at)",
)

# Never used again, since cursors elsewhere than in this table are known by the shard's id.
shard_id = sa.Sequence("shard_id_seq", metadata=metadata, data_type=sa.Integer, start=2)

shard = sa.Table(
    "shard",
    metadata,
    sa.Column("id", sa.Integer, shard_id, primary_key=True, server_default=shard_id.next_value()),
    _required("hash_from", sa.BigInteger),
    _required("hash_to", sa.BigInteger),
    _required("snapshot", PgSnapshot),
    # Both set while a backlog is published in chunks: the snapshot it ends at, and how far it is.
    sa.Column("batch_snapshot", PgSnapshot),
    sa.Column("position", sa.BigInteger),
    # Every transaction from `next_xid` on has positions above `floor` only; see `reader.difference`.
    _required("floor", sa.BigInteger, server_default="0"),
    _required("next_xid", Xid8),
    _required("number", sa.BigInteger, server_default="0"),
    _required("system_identifier", sa.BigInteger, server_default=_THIS_CLUSTER),
    _required("epoch", sa.BigInteger, server_default="0"),
    sa.Column("owner", sa.Text),
    sa.Column("leased_until", _INSTANT),
    # The process that asked for the handover: the owner releases the shard, and no other claims it.
    sa.Column("reserved_for", sa.Text),
    sa.Column("reserved_until", _INSTANT),
    # The first message after a claim, and how many relays crashed while publishing it.
    sa.Column("touched", sa.BigInteger),
    _required("touches", sa.Integer, server_default="0"),
    sa.CheckConstraint("hash_from < hash_to", name="range_not_empty"),
    sa.CheckConstraint("(batch_snapshot IS NULL) = (position IS NULL)", name="batch_whole"),
    sa.CheckConstraint("(owner IS NULL) = (leased_until IS NULL)", name="lease_whole"),
    sa.CheckConstraint(
        "(reserved_for IS NULL) = (reserved_until IS NULL)", name="reservation_whole"
    ),
    # Two relays of one key would publish its messages twice, and out of order.
    ExcludeConstraint(
        (sa.text("int8range(hash_from, hash_to)"), "&&"), name="ex_shard_ranges_apart"
    ),
)

relay = sa.Table(
    "relay",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _required("seen_until", _INSTANT),
)

# A blocked key is a shard of that key alone: its cursor says what of the key is published.
blocked_key = sa.Table(
    "blocked_key",
    metadata,
    sa.Column("key", _KEY, primary_key=True),
    _required("key_hash", sa.Integer, sa.Computed("hashtext(key)", persisted=True)),
    _required("state", sa.Text, server_default="BLOCKED"),
    _required("message_id", sa.Uuid),
    _required("topic", sa.Text),
    _required("message_position", sa.BigInteger),
    _required("reason", sa.Text),
    _required("attempts", sa.Integer, server_default="1"),
    _required("blocked_at", _INSTANT, server_default=sa.func.now()),
    _required("snapshot", PgSnapshot),
    sa.Column("batch_snapshot", PgSnapshot),
    sa.Column("position", sa.BigInteger),
    _required("floor", sa.BigInteger),
    _required("next_xid", Xid8),
    # How many relays crashed while publishing the key's next message.
    _required("touches", sa.Integer, server_default="0"),
    sa.CheckConstraint("state IN ('BLOCKED', 'RETRYING')", name="state_known"),
    sa.CheckConstraint("(batch_snapshot IS NULL) = (position IS NULL)", name="batch_whole"),
)

# A copy, since retention drops the message; and the record of the decision: by whom, and why.
dead_letter = sa.Table(
    "dead_letter",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _required("message_id", sa.Uuid),
    _required("topic", sa.Text),
    _required("key", _KEY),
    _required("value", sa.LargeBinary),
    _required("headers", JSON),
    _required("position", sa.BigInteger),
    _required("created_at", _INSTANT),
    _required("reason", sa.Text),
    _required("attempts", sa.Integer),
    _required("blocked_at", _INSTANT),
    _required("skipped_at", _INSTANT, server_default=sa.func.now()),
    _required("skipped_by", sa.Text),
    _required("note", sa.Text, server_default=""),
)

topic = sa.Table(
    "topic",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _required("value_bytes_max", sa.Integer),
    sa.CheckConstraint("value_bytes_max > 0", name="value_bytes_max_positive"),
)

# Messages published again: which ones, how far, and by whom; see `outbox.admin.replays`.
replay = sa.Table(
    "replay",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    _required("state", sa.Text, server_default="RUNNING"),
    sa.Column("reason", sa.Text),
    _required("topics", ARRAY(sa.Text)),
    _required("keys", ARRAY(sa.Text)),
    _required("message_ids", ARRAY(sa.Uuid)),
    # Of a mend alone: where each of the ids stands in the log; see `outbox.admin.mending`.
    _required("positions", ARRAY(sa.BigInteger), server_default="{}"),
    sa.Column("since", _INSTANT),
    sa.Column("until", _INSTANT),
    sa.Column("to_topic", sa.Text),
    _required("per_second", sa.Integer),
    # What was published when it began, by shard and blocked key: the set of messages never changes.
    _required("cursors", JSON),
    # The last one that is done with; the first and the last of all.
    _required("position", sa.BigInteger),
    _required("first_position", sa.BigInteger),
    _required("last_position", sa.BigInteger),
    # When the messages were appended, so that only the partitions of those days are read.
    _required("first_at", _INSTANT),
    _required("last_at", _INSTANT),
    _required("expected", sa.BigInteger),
    _required("left_out", sa.BigInteger),
    _required("sent", sa.BigInteger, server_default="0"),
    _required("refused", sa.BigInteger, server_default="0"),
    # Of a mend alone: the ids that were no longer in the log when their turn came.
    _required("gone", ARRAY(sa.Uuid), server_default="{}"),
    # Of the cluster whose transaction ids the cursors speak of.
    _required("system_identifier", sa.BigInteger, server_default=_THIS_CLUSTER),
    _required("started_by", sa.Text),
    _required("started_at", _INSTANT, server_default=sa.func.now()),
    _required("updated_at", _INSTANT, server_default=sa.func.now()),
    sa.CheckConstraint(
        "state IN ('RUNNING', 'INTERRUPTED', 'REFUSED', 'DONE', 'CANCELLED')", name="state_known"
    ),
    sa.CheckConstraint(
        "cardinality(topics) + cardinality(keys) + cardinality(message_ids) > 0 "
        "OR since IS NOT NULL OR until IS NOT NULL",
        name="selection_given",
    ),
    sa.CheckConstraint("per_second >= 0", name="rate_not_negative"),
    sa.CheckConstraint(
        "cardinality(positions) IN (0, cardinality(message_ids))", name="positions_of_messages"
    ),
)

# Findings of an audit that are no alarm any more; see `outbox.admin.mending`.
acknowledgement = sa.Table(
    "acknowledgement",
    metadata,
    _required("kind", sa.Text),
    _required("topic", sa.Text),
    _required("message_id", sa.Uuid),
    _required("acknowledged_by", sa.Text),
    _required("acknowledged_at", _INSTANT, server_default=sa.func.now()),
    _required("reason", sa.Text),
    # The mend that made it history: should the message be lost once more, that is a new finding.
    sa.Column("mended_by", sa.Integer),
    sa.PrimaryKeyConstraint("message_id", "topic", "kind", "acknowledged_at"),
    sa.CheckConstraint("reason <> ''", name="reason_given"),
    sa.ForeignKeyConstraint(["mended_by"], [replay.c.id], name="fk_acknowledgement_mended_by"),
    sa.Index(
        "uq_acknowledgement_in_force",
        "kind",
        "topic",
        "message_id",
        unique=True,
        postgresql_where=sa.text("mended_by IS NULL"),
    ),
)

# A timed job: which process leads, and how its runs ended; see `outbox.jobs`.
scheduled_job = sa.Table(
    "scheduled_job",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _required("owner", sa.Text),
    _required("leased_until", _INSTANT),
    sa.Column("succeeded_at", _INSTANT),
    sa.Column("succeeded_by", sa.Text),
    sa.Column("failed_at", _INSTANT),
    sa.Column("failed_by", sa.Text),
    sa.Column("failure", sa.Text),
    sa.CheckConstraint("(succeeded_at IS NULL) = (succeeded_by IS NULL)", name="success_whole"),
    sa.CheckConstraint("num_nulls(failed_at, failed_by, failure) IN (0, 3)", name="failure_whole"),
)
