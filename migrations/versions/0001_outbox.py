"""The outbox: the message log, the shards that relay it, and the declared topics."""

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    upgrade_outbox(1)


def downgrade() -> None:
    downgrade_outbox(0, since=1)
