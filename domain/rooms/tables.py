"""The tables of the room side.

`taken` of a room night is the number of HELD allocations that cover it, and never above
`capacity`. An allocation is never deleted: it records what was done for a reservation, so
deduplication never expires.
"""

import sqlalchemy as sa

from domain.idempotency import keys_table
from domain.naming import NAMING_CONVENTION

metadata = sa.MetaData(schema="rooms", naming_convention=NAMING_CONVENTION)
_NOW = sa.func.now()

# The inventory's owner numbers the rooms: reservations elsewhere already know these ids.
room = sa.Table(
    "room",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    sa.CheckConstraint("id > 0", name="positive_id"),
    sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name="bounded_name"),
)

room_night = sa.Table(
    "room_night",
    metadata,
    sa.Column("room_id", sa.BigInteger, sa.ForeignKey(room.c.id), nullable=False),
    sa.Column("night", sa.Date, nullable=False),
    sa.Column("capacity", sa.Integer, nullable=False),
    sa.Column("taken", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The highest capacity ever set: verify replays the whole history against it.
    sa.Column("capacity_peak", sa.Integer, nullable=False),
    # The rules of a night, for requests from now on; see `domain/rooms/nights.py`.
    sa.Column("closed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("min_stay", sa.SmallInteger, nullable=False, server_default=sa.text("1")),
    sa.Column("closed_to_arrival", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("closed_to_departure", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.PrimaryKeyConstraint("room_id", "night"),
    sa.CheckConstraint("0 <= taken AND taken <= capacity", name="taken_within_capacity"),
    sa.CheckConstraint("capacity <= capacity_peak", name="capacity_within_peak"),
    sa.CheckConstraint("min_stay BETWEEN 1 AND 365", name="bounded_min_stay"),
    # The migration gives it a fillfactor of 70: room on each page keeps the many updates of `taken` off
    # the index (HOT).
)

# No foreign key to room: a refused reservation of an unknown room is remembered too.
allocation = sa.Table(
    "allocation",
    metadata,
    sa.Column("reservation_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("room_id", sa.BigInteger, nullable=False),
    sa.Column("check_in", sa.Date, nullable=False),
    sa.Column("check_out", sa.Date, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("reserve_message_id", sa.Uuid),
    sa.Column("cancel_message_id", sa.Uuid),
    sa.CheckConstraint("check_in < check_out", name="has_a_night"),
    sa.CheckConstraint("state IN ('HELD', 'REFUSED', 'RELEASED')", name="known_state"),
    sa.CheckConstraint(
        "CASE state WHEN 'HELD' THEN reason IS NULL WHEN 'REFUSED' THEN reason IS NOT NULL "
        "ELSE true END",
        name="fitting_reason",
    ),
    sa.CheckConstraint(
        "state = 'RELEASED' OR reserve_message_id IS NOT NULL", name="reserved_by_a_message"
    ),
    sa.CheckConstraint(
        "(state = 'RELEASED') = (cancel_message_id IS NOT NULL)", name="released_by_a_message"
    ),
    # The held allocations of a room: verify compares their number with `taken`.
    sa.Index(
        "ix_allocation_held", "room_id", "check_in", postgresql_where=sa.text("state = 'HELD'")
    ),
)

idempotency_key = keys_table(metadata)
