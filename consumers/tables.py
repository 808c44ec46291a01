"""The table of dead letters: messages that can never succeed, kept whole until an operator decides.

A dead letter is open until it is retried with success or discarded; either way it stays, with the
decision and its instant. It is identified by its location and its content: a topic that was deleted and
created again has other messages at the same locations.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from domain.naming import NAMING_CONVENTION

metadata = MetaData(schema="consumers", naming_convention=NAMING_CONVENTION)

# Generated, so that every row has one. Key and value are hashed first, so that a byte moved from one to
# the other changes the digest. A backslash is doubled because `decode` reads escapes; `convert_to` reads
# none, and is not immutable. Written as Postgres prints it, for `alembic check`.
DIGEST = r"""sha256(
    coalesce(sha256(key), '\x00'::bytea) || coalesce(sha256(value), '\x00'::bytea)
    || decode(replace(headers::text, '\'::text, '\\'::text), 'escape'::text)
)"""

_IDENTITY = ("group_id", "topic", "partition", "offset", "digest")
SAME_LETTER = UniqueConstraint(
    *_IDENTITY, name="uq_dead_letter_group_id_topic_partition_offset_digest"
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="OPEN"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("decided_at", DateTime(timezone=True)),
    Column("digest", LargeBinary, Computed(DIGEST, persisted=True), nullable=False),
    SAME_LETTER,
    CheckConstraint("state IN ('OPEN', 'RETRIED', 'DISCARDED')", name="state_known"),
    CheckConstraint("(state = 'OPEN') = (decided_at IS NULL)", name="decided_once"),
    Index("ix_dead_letter_open", "id", postgresql_where=text("state = 'OPEN'")),
)
