"""The room side: rooms, their nights, and allocations."""

from alembic import op

revision = "0003"
down_revision = "0002"
UPGRADE = [
    "CREATE SCHEMA rooms",
    """
    CREATE TABLE rooms.allocation (
        reservation_id BIGINT NOT NULL,
        room_id BIGINT NOT NULL,
        check_in DATE NOT NULL,
        check_out DATE NOT NULL,
        state TEXT NOT NULL,
        reason TEXT,
        reserve_message_id UUID,
        cancel_message_id UUID,
        CONSTRAINT pk_allocation PRIMARY KEY (reservation_id),
        CONSTRAINT ck_allocation_has_a_night CHECK (check_in < check_out),
        CONSTRAINT ck_allocation_known_state CHECK (state IN ('HELD', 'REFUSED', 'RELEASED')),
        CONSTRAINT ck_allocation_fitting_reason CHECK (CASE state WHEN 'HELD' THEN reason IS NULL WHEN 'REFUSED' THEN reason IS NOT NULL ELSE true END),
        CONSTRAINT ck_allocation_reserved_by_a_message CHECK (state = 'RELEASED' OR reserve_message_id IS NOT NULL),
        CONSTRAINT ck_allocation_released_by_a_message CHECK ((state = 'RELEASED') = (cancel_message_id IS NOT NULL))
    )
    """,
    "CREATE INDEX ix_allocation_held ON rooms.allocation (room_id, check_in) WHERE state = 'HELD'",
    """
    CREATE TABLE rooms.room (
        id BIGINT NOT NULL,
        name TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_room PRIMARY KEY (id),
        CONSTRAINT ck_room_positive_id CHECK (id > 0),
        CONSTRAINT ck_room_bounded_name CHECK (length(name) BETWEEN 1 AND 200)
    )
    """,
    """
    CREATE TABLE rooms.room_night (
        room_id BIGINT NOT NULL,
        night DATE NOT NULL,
        capacity INTEGER NOT NULL,
        taken INTEGER DEFAULT 0 NOT NULL,
        capacity_peak INTEGER NOT NULL,
        CONSTRAINT pk_room_night PRIMARY KEY (room_id, night),
        CONSTRAINT ck_room_night_taken_within_capacity CHECK (0 <= taken AND taken <= capacity),
        CONSTRAINT ck_room_night_capacity_within_peak CHECK (capacity <= capacity_peak),
        CONSTRAINT fk_room_night_room_id_room FOREIGN KEY(room_id) REFERENCES rooms.room (id)
    ) WITH (fillfactor = 70)
    """,
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP SCHEMA rooms CASCADE")
