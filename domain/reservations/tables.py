"""The tables of the reservation side.

`reservation` is the current state, `transition` its history: one row for each version of a
reservation, written by the statement that changes it and never changed again. The newest
transition always equals its reservation in version, status and reason.
"""

import sqlalchemy as sa

from domain.idempotency import keys_table
from domain.naming import NAMING_CONVENTION

metadata = sa.MetaData(schema="reservations", naming_convention=NAMING_CONVENTION)
_NOW = sa.func.now()

_KNOWN_STATUS = "status IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLING', 'CANCELLED')"
_FITTING_REASON = """
    CASE
        WHEN status = 'REJECTED' THEN reason IS NOT NULL
        WHEN status IN ('PENDING', 'CANCELLING') THEN reason IS NULL OR reason = 'REDRIVEN'
        ELSE reason IS NULL
    END
"""
# A member, a person of the staff who acted for a member, the rooms' answer, or innbox's redrive.
_KNOWN_ACTOR = "actor ~ '^((member|staff):[1-9][0-9]{0,18}|rooms|innbox)$'"
_W3C_TRACE_ID = "trace_id ~ '^[0-9a-f]{32}$'"

reservation = sa.Table(
    "reservation",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("member_id", sa.BigInteger, nullable=False),
    sa.Column("room_id", sa.BigInteger, nullable=False),
    sa.Column("check_in", sa.Date, nullable=False),
    sa.Column("check_out", sa.Date, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    sa.CheckConstraint("check_in < check_out", name="has_a_night"),
    sa.CheckConstraint(_KNOWN_STATUS, name="known_status"),
    sa.CheckConstraint(_FITTING_REASON, name="fitting_reason"),
    sa.CheckConstraint("version >= 1", name="version_counts_from_one"),
    # A member's list reads this backwards: newest first.
    sa.Index(None, "member_id", "id"),
    # A member's pending reservations, counted with each new one: few entries, so it is cheap.
    sa.Index("ix_reservation_pending", "member_id", postgresql_where=sa.text("status = 'PENDING'")),
    # The staff's lists: the reservations of a room, and the arrivals of some days.
    sa.Index(None, "room_id", "id"),
    sa.Index(None, "check_in"),
    # Open sagas only, so it stays small however many reservations there are.
    sa.Index(
        "ix_reservation_open",
        "updated_at",
        postgresql_where=sa.text("status IN ('PENDING', 'CANCELLING')"),
    ),
)

transition = sa.Table(
    "transition",
    metadata,
    sa.Column("reservation_id", sa.BigInteger, sa.ForeignKey(reservation.c.id), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("message_id", sa.Uuid, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    # Null in rows that are older than these columns.
    sa.Column("actor", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.PrimaryKeyConstraint("reservation_id", "version"),
    sa.CheckConstraint(_KNOWN_STATUS, name="known_status"),
    sa.CheckConstraint(_FITTING_REASON, name="fitting_reason"),
    sa.CheckConstraint(_KNOWN_ACTOR, name="known_actor"),
    sa.CheckConstraint(_W3C_TRACE_ID, name="w3c_trace_id"),
)

idempotency_key = keys_table(metadata, sa.Column("reservation_id", sa.BigInteger))
