"""Lists of reservations can be filtered; the indexes are built without blocking writers.

It is not one transaction: a run that was interrupted leaves some of its steps, and can be run again. An
index build waits for every older transaction, without a limit; meanwhile it blocks no other session.
"""

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"
INDEXES = {
    "ix_reservation_room_id_id": "(room_id, id)",
    "ix_reservation_check_in": "(check_in)",
    "ix_reservation_pending": "(member_id) WHERE status = 'PENDING'",
}
CONSTRAINTS = {
    "ck_transition_known_actor": "reservations.transition",
    "ck_transition_w3c_trace_id": "reservations.transition",
    "ck_room_night_bounded_min_stay": "rooms.room_night",
}


def upgrade() -> None:
    # The script may be run in one transaction, in which no index can be built concurrently.
    if op.get_context().as_sql:
        _build("")
    else:
        with op.get_context().autocommit_block():
            limit = op.get_bind().scalar(text("SHOW lock_timeout"))
            op.execute("SET lock_timeout = 0")
            _build("CONCURRENTLY")
            op.execute(f"SET lock_timeout = '{limit}'")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX reservations.{name}")


def _build(how: str) -> None:
    for name, columns in INDEXES.items():
        # An existing one was left by an interrupted run; it is invalid, so no query uses it.
        op.execute(f"DROP INDEX {how} IF EXISTS reservations.{name}")
        op.execute(f"CREATE INDEX {how} {name} ON reservations.reservation {columns}")
    for constraint, table in CONSTRAINTS.items():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")
