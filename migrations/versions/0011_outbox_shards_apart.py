"""The outbox, version 5: no two shards overlap."""

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    upgrade_outbox(5, since=4)


def downgrade() -> None:
    downgrade_outbox(4, since=5)
