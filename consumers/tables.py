"""The table of dead letters: messages that can never succeed, kept whole until somebody decides.

A dead letter is open until it is retried with success or discarded; either way it stays, with what was
decided and when.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
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
    # A redelivered poison message is the same dead letter.
    UniqueConstraint("group_id", "topic", "partition", "offset"),
    CheckConstraint("state IN ('OPEN', 'RETRIED', 'DISCARDED')", name="state_known"),
    CheckConstraint("(state = 'OPEN') = (decided_at IS NULL)", name="decided_once"),
    Index("ix_dead_letter_open", "id", postgresql_where=text("state = 'OPEN'")),
)
