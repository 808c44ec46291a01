"""The tables of the outbox, in the schema `outbox`.

`message` is an append-only log: rows are inserted and never updated, and retention drops whole
partitions, so it collects no dead tuples. It is partitioned by day, with a default partition so that
no insert is ever refused for want of one. Partitions come and go at run time (`outbox.retention`) and
are therefore no part of this metadata.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
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
from sqlalchemy.dialects.postgresql import JSON
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

message = Table(
    "message",
    metadata,
    Column("position", BigInteger, position, server_default=position.next_value()),
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

shard = Table(
    "shard",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("hash_from", BigInteger, nullable=False),
    Column("hash_to", BigInteger, nullable=False),
    Column("snapshot", PgSnapshot, nullable=False),
    # Both set while a backlog is published in chunks: the snapshot it ends at, and how far it is.
    Column("batch_snapshot", PgSnapshot),
    Column("position", BigInteger),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("owner", Text),
    Column("leased_until", DateTime(timezone=True)),
    CheckConstraint("hash_from < hash_to", name="range_not_empty"),
    CheckConstraint("(batch_snapshot IS NULL) = (position IS NULL)", name="batch_whole"),
    CheckConstraint("(owner IS NULL) = (leased_until IS NULL)", name="lease_whole"),
    # Every saved cursor rewrites the row: room on the page keeps the rewrites there.
    postgresql_with={"fillfactor": 20},
)

topic = Table(
    "topic",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value_bytes_max", Integer, nullable=False),
    CheckConstraint("value_bytes_max > 0", name="value_bytes_max_positive"),
)
