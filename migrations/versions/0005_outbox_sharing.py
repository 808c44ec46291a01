"""The outbox, version 2: relays share the shards, a refused message blocks its key, cursors know their cluster."""

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    upgrade_outbox(2, since=1)


def downgrade() -> None:
    downgrade_outbox(1, since=2)
