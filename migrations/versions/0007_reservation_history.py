"""The history of a reservation records actor and trace.

The constraints hold for new rows at once; 0010 validates them for all rows, without blocking writers.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
UPGRADE = """
    ALTER TABLE reservations.transition
        ADD COLUMN actor TEXT,
        ADD COLUMN trace_id TEXT,
        ADD CONSTRAINT ck_transition_known_actor
            CHECK (actor ~ '^((member|staff):[1-9][0-9]{0,18}|rooms|innbox)$') NOT VALID,
        ADD CONSTRAINT ck_transition_w3c_trace_id CHECK (trace_id ~ '^[0-9a-f]{32}$') NOT VALID
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("ALTER TABLE reservations.transition DROP COLUMN actor, DROP COLUMN trace_id")
