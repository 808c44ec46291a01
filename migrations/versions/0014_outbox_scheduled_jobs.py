"""The outbox, version 7: a leased row elects the process that runs a timed job."""

from alembic import op

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    upgrade_outbox(7, since=6)
    op.execute("""
        GRANT SELECT, INSERT, UPDATE ON outbox.scheduled_job
            TO innbox_relay, innbox_rooms, innbox_results
    """)


def downgrade() -> None:
    downgrade_outbox(6, since=7)
