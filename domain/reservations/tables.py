"""The tables of the reservation side.

`reservation` is what is, `transition` how it came about: one row for each version of a
reservation, written by the statement that changes it and never touched again. The newest
transition always equals its reservation in version, status and reason.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from domain.idempotency import keys_table
from domain.naming import NAMING_CONVENTION

metadata = MetaData(schema="reservations", naming_convention=NAMING_CONVENTION)

_KNOWN_STATUS = "status IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLING', 'CANCELLED')"
_FITTING_REASON = """
    CASE
        WHEN status = 'REJECTED' THEN reason IS NOT NULL
        WHEN status IN ('PENDING', 'CANCELLING') THEN reason IS NULL OR reason = 'REDRIVEN'
        ELSE reason IS NULL
    END
"""
# A member, staff acting for one, the rooms' answer, or innbox asking again.
_KNOWN_ACTOR = "actor ~ '^((member|staff):[1-9][0-9]{0,18}|rooms|innbox)$'"
_W3C_TRACE_ID = "trace_id ~ '^[0-9a-f]{32}$'"

reservation = Table(
    "reservation",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("member_id", BigInteger, nullable=False),
    Column("room_id", BigInteger, nullable=False),
    Column("check_in", Date, nullable=False),
    Column("check_out", Date, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("version", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("check_in < check_out", name="has_a_night"),
    CheckConstraint(_KNOWN_STATUS, name="known_status"),
    CheckConstraint(_FITTING_REASON, name="fitting_reason"),
    CheckConstraint("version >= 1", name="version_counts_from_one"),
    # A member's list reads this backwards: newest first.
    Index(None, "member_id", "id"),
    # How many a member waits for, counted with each new one: so few entries that it is cheap.
    Index("ix_reservation_pending", "member_id", postgresql_where=text("status = 'PENDING'")),
    # Likewise the list of a room's, for the staff; and of those who arrive within some days.
    Index(None, "room_id", "id"),
    Index(None, "check_in"),
    # Open sagas only, so it stays small however many reservations there are.
    Index(
        "ix_reservation_open",
        "updated_at",
        postgresql_where=text("status IN ('PENDING', 'CANCELLING')"),
    ),
)

transition = Table(
    "transition",
    metadata,
    Column("reservation_id", BigInteger, ForeignKey(reservation.c.id), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("message_id", Uuid, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # By whom and in which trace; rows that are older than these columns do not tell.
    Column("actor", Text),
    Column("trace_id", Text),
    PrimaryKeyConstraint("reservation_id", "version"),
    CheckConstraint(_KNOWN_STATUS, name="known_status"),
    CheckConstraint(_FITTING_REASON, name="fitting_reason"),
    CheckConstraint(_KNOWN_ACTOR, name="known_actor"),
    CheckConstraint(_W3C_TRACE_ID, name="w3c_trace_id"),
)

idempotency_key = keys_table(metadata, Column("reservation_id", BigInteger))
