"""The outbox, version 3: stored messages can be replayed."""

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    upgrade_outbox(3, since=2)


def downgrade() -> None:
    downgrade_outbox(2, since=3)
