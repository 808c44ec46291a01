"""The tables of the room side.

`taken` of a room night is the number of HELD allocations that cover it, and never above
`capacity`. An allocation is kept for ever: it is the memory of what was done for a
reservation, so deduplication never expires.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    false,
    func,
    text,
)

from domain.idempotency import keys_table
from domain.naming import NAMING_CONVENTION

metadata = MetaData(schema="rooms", naming_convention=NAMING_CONVENTION)

# The inventory's owner numbers the rooms: reservations elsewhere already know these ids.
room = Table(
    "room",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("id > 0", name="positive_id"),
    CheckConstraint("length(name) BETWEEN 1 AND 200", name="bounded_name"),
)

room_night = Table(
    "room_night",
    metadata,
    Column("room_id", BigInteger, ForeignKey(room.c.id), nullable=False),
    Column("night", Date, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("taken", Integer, nullable=False, server_default=text("0")),
    # The highest capacity that was ever set: what a replay of all history is held against.
    Column("capacity_peak", Integer, nullable=False),
    # What a night has in store for who asks from now on; `domain/rooms/nights.py` has the rules.
    Column("closed", Boolean, nullable=False, server_default=false()),
    Column("min_stay", SmallInteger, nullable=False, server_default=text("1")),
    Column("closed_to_arrival", Boolean, nullable=False, server_default=false()),
    Column("closed_to_departure", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("room_id", "night"),
    CheckConstraint("0 <= taken AND taken <= capacity", name="taken_within_capacity"),
    CheckConstraint("capacity <= capacity_peak", name="capacity_within_peak"),
    CheckConstraint("min_stay BETWEEN 1 AND 365", name="bounded_min_stay"),
    # The migration gives it a fillfactor of 70: room on each page keeps the many updates of `taken` off
    # the index (HOT).
)

# No foreign key to room: a refused reservation of an unknown room is remembered too.
allocation = Table(
    "allocation",
    metadata,
    Column("reservation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", BigInteger, nullable=False),
    Column("check_in", Date, nullable=False),
    Column("check_out", Date, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("reserve_message_id", Uuid),
    Column("cancel_message_id", Uuid),
    CheckConstraint("check_in < check_out", name="has_a_night"),
    CheckConstraint("state IN ('HELD', 'REFUSED', 'RELEASED')", name="known_state"),
    CheckConstraint(
        "CASE state WHEN 'HELD' THEN reason IS NULL WHEN 'REFUSED' THEN reason IS NOT NULL "
        "ELSE true END",
        name="fitting_reason",
    ),
    CheckConstraint(
        "state = 'RELEASED' OR reserve_message_id IS NOT NULL", name="reserved_by_a_message"
    ),
    CheckConstraint(
        "(state = 'RELEASED') = (cancel_message_id IS NOT NULL)", name="released_by_a_message"
    ),
    # What is held of a room: counted against `taken` whenever the invariants are verified.
    Index("ix_allocation_held", "room_id", "check_in", postgresql_where=text("state = 'HELD'")),
)

idempotency_key = keys_table(metadata)
