"""The outbox, version 6: records that the brokers lost can be published again, findings acknowledged."""

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    upgrade_outbox(6, since=5)


def downgrade() -> None:
    downgrade_outbox(5, since=6)
