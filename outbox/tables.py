"""The tables of the outbox, in the schema `outbox`.

`message` is an append-only log: rows are inserted and never updated, and retention drops whole
partitions, so it collects no dead tuples. It is partitioned by day, with a default partition so that no
insert is ever refused because there is none. Partitions come and go at run time
(`outbox.admin.partitions`) and are therefore no part of this metadata.

Nor are storage parameters, which SQLAlchemy 2.0 has no keyword for: the statements of `outbox.schema`
give the tables that are updated a fillfactor, so that a rewritten row stays on its page and touches no
index.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, ExcludeConstraint
from sqlalchemy.types import UserDefinedType

SCHEMA = "outbox"

metadata = MetaData(
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


# CACHE 1: with a larger cache two sessions draw positions in another order than they commit, and two
# writers of one key that take turns under its lock would be published the wrong way round.
position = Sequence("message_position_seq", metadata=metadata, data_type=BigInteger, cache=1)

# Drawn after the transaction's id, so that an id not yet given will have higher positions only.
_AFTER_XID = text(
    "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('outbox.message_position_seq') END"
)

message = Table(
    "message",
    metadata,
    Column("position", BigInteger, server_default=_AFTER_XID),
    Column("xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("message_id", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    # Which shard a message belongs to. Generated, so that writers in any language agree.
    Column("key_hash", Integer, Computed("hashtext(key)", persisted=True), nullable=False),
    Column("value", LargeBinary, nullable=False),
    # json and not jsonb: it is written once, read whole, and never looked into.
    Column("headers", JSON, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("position", "created_at"),
    CheckConstraint("key <> ''", name="key_given"),
    Index(None, "xid"),
    postgresql_partition_by="RANGE (created_at)",
)

# Never used again, since cursors elsewhere than in this table are known by the shard's id.
shard_id = Sequence("shard_id_seq", metadata=metadata, data_type=Integer, start=2)

shard = Table(
    "shard",
    metadata,
    Column("id", Integer, shard_id, primary_key=True, server_default=shard_id.next_value()),
    Column("hash_from", BigInteger, nullable=False),
    Column("hash_to", BigInteger, nullable=False),
    Column("snapshot", PgSnapshot, nullable=False),
    # Both set while a backlog is published in chunks: the snapshot it ends at, and how far it is.
    Column("batch_snapshot", PgSnapshot),
    Column("position", BigInteger),
    # Every transaction from `next_xid` on has positions above `floor` only; see `reader.difference`.
    Column("floor", BigInteger, nullable=False, server_default="0"),
    Column("next_xid", Xid8, nullable=False),
    Column("number", BigInteger, nullable=False, server_default="0"),
    Column(
        "system_identifier",
        BigInteger,
        nullable=False,
        server_default=text("(pg_control_system()).system_identifier"),
    ),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("owner", Text),
    Column("leased_until", DateTime(timezone=True)),
    # The process that asked for the handover: the owner releases the shard, and no other claims it.
    Column("reserved_for", Text),
    Column("reserved_until", DateTime(timezone=True)),
    # The first message after a claim, and how many relays crashed while publishing it.
    Column("touched", BigInteger),
    Column("touches", Integer, nullable=False, server_default="0"),
    CheckConstraint("hash_from < hash_to", name="range_not_empty"),
    CheckConstraint("(batch_snapshot IS NULL) = (position IS NULL)", name="batch_whole"),
    CheckConstraint("(owner IS NULL) = (leased_until IS NULL)", name="lease_whole"),
    CheckConstraint("(reserved_for IS NULL) = (reserved_until IS NULL)", name="reservation_whole"),
    # Two relays of one key would publish its messages twice, and out of order.
    ExcludeConstraint((text("int8range(hash_from, hash_to)"), "&&"), name="ex_shard_ranges_apart"),
)

relay = Table(
    "relay",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seen_until", DateTime(timezone=True), nullable=False),
)

# A blocked key is a shard of that key alone: its cursor says what of the key is published.
blocked_key = Table(
    "blocked_key",
    metadata,
    Column("key", Text(collation="C"), primary_key=True),
    Column("key_hash", Integer, Computed("hashtext(key)", persisted=True), nullable=False),
    Column("state", Text, nullable=False, server_default="BLOCKED"),
    Column("message_id", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("message_position", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("blocked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("snapshot", PgSnapshot, nullable=False),
    Column("batch_snapshot", PgSnapshot),
    Column("position", BigInteger),
    Column("floor", BigInteger, nullable=False),
    Column("next_xid", Xid8, nullable=False),
    # How many relays crashed while publishing the key's next message.
    Column("touches", Integer, nullable=False, server_default="0"),
    CheckConstraint("state IN ('BLOCKED', 'RETRYING')", name="state_known"),
    CheckConstraint("(batch_snapshot IS NULL) = (position IS NULL)", name="batch_whole"),
)

# A copy, since retention drops the message; and the record of the decision: by whom, and why.
dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("message_id", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("blocked_at", DateTime(timezone=True), nullable=False),
    Column("skipped_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("skipped_by", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
)

topic = Table(
    "topic",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value_bytes_max", Integer, nullable=False),
    CheckConstraint("value_bytes_max > 0", name="value_bytes_max_positive"),
)

# Messages published again: which ones, how far, and by whom; see `outbox.admin.replays`.
replay = Table(
    "replay",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("state", Text, nullable=False, server_default="RUNNING"),
    Column("reason", Text),
    Column("topics", ARRAY(Text), nullable=False),
    Column("keys", ARRAY(Text), nullable=False),
    Column("message_ids", ARRAY(Uuid), nullable=False),
    # Of a mend alone: where each of the ids stands in the log; see `outbox.admin.mending`.
    Column("positions", ARRAY(BigInteger), nullable=False, server_default="{}"),
    Column("since", DateTime(timezone=True)),
    Column("until", DateTime(timezone=True)),
    Column("to_topic", Text),
    Column("per_second", Integer, nullable=False),
    # What was published when it began, by shard and blocked key: the set of messages never changes.
    Column("cursors", JSON, nullable=False),
    # The last one that is done with; the first and the last of all.
    Column("position", BigInteger, nullable=False),
    Column("first_position", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    # When the messages were appended, so that only the partitions of those days are read.
    Column("first_at", DateTime(timezone=True), nullable=False),
    Column("last_at", DateTime(timezone=True), nullable=False),
    Column("expected", BigInteger, nullable=False),
    Column("left_out", BigInteger, nullable=False),
    Column("sent", BigInteger, nullable=False, server_default="0"),
    Column("refused", BigInteger, nullable=False, server_default="0"),
    # Of a mend alone: the ids that were no longer in the log when their turn came.
    Column("gone", ARRAY(Uuid), nullable=False, server_default="{}"),
    # Of the cluster whose transaction ids the cursors speak of.
    Column(
        "system_identifier",
        BigInteger,
        nullable=False,
        server_default=text("(pg_control_system()).system_identifier"),
    ),
    Column("started_by", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint(
        "state IN ('RUNNING', 'INTERRUPTED', 'REFUSED', 'DONE', 'CANCELLED')", name="state_known"
    ),
    CheckConstraint(
        "cardinality(topics) + cardinality(keys) + cardinality(message_ids) > 0 "
        "OR since IS NOT NULL OR until IS NOT NULL",
        name="selection_given",
    ),
    CheckConstraint("per_second >= 0", name="rate_not_negative"),
    CheckConstraint(
        "cardinality(positions) IN (0, cardinality(message_ids))", name="positions_of_messages"
    ),
)

# Findings of an audit that are no alarm any more; see `outbox.admin.acknowledged`.
acknowledgement = Table(
    "acknowledgement",
    metadata,
    Column("kind", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("message_id", Uuid, nullable=False),
    Column("acknowledged_by", Text, nullable=False),
    Column("acknowledged_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("reason", Text, nullable=False),
    # The mend that made it history: should the message be lost once more, that is a new finding.
    Column("mended_by", Integer),
    PrimaryKeyConstraint("message_id", "topic", "kind", "acknowledged_at"),
    CheckConstraint("reason <> ''", name="reason_given"),
    ForeignKeyConstraint(["mended_by"], [replay.c.id], name="fk_acknowledgement_mended_by"),
    Index(
        "uq_acknowledgement_in_force",
        "kind",
        "topic",
        "message_id",
        unique=True,
        postgresql_where=text("mended_by IS NULL"),
    ),
)

# A timed job: which process leads, and how its runs ended; see `outbox.jobs`.
scheduled_job = Table(
    "scheduled_job",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("leased_until", DateTime(timezone=True), nullable=False),
    Column("succeeded_at", DateTime(timezone=True)),
    Column("succeeded_by", Text),
    Column("failed_at", DateTime(timezone=True)),
    Column("failed_by", Text),
    Column("failure", Text),
    CheckConstraint("(succeeded_at IS NULL) = (succeeded_by IS NULL)", name="success_whole"),
    CheckConstraint("num_nulls(failed_at, failed_by, failure) IN (0, 3)", name="failure_whole"),
)
