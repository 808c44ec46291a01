"""Alembic operations: the outbox as a step of any project's migrations.

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

def upgrade() -> None:
    upgrade_outbox(2)

def downgrade() -> None:
    downgrade_outbox(0)
"""

from alembic import op

from outbox.schema import downgrades, upgrades


def upgrade_outbox(to: int, *, since: int = 0) -> None:
    """Bring the outbox from one version of its schema to another."""
    for statement in upgrades(since=since, to=to):
        op.execute(statement)


def downgrade_outbox(to: int, *, since: int = 1) -> None:
    """Take versions back; 0 drops the outbox with all that is in it."""
    for statement in downgrades(since=since, to=to):
        op.execute(statement)
