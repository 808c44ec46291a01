"""The history of a reservation tells by whom and in which trace; lists can be filtered."""

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
