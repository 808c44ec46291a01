"""Rules of room nights, and idempotency keys of the rooms."""

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
