"""Alembic operations: the outbox as a step of any project's migrations, `--sql` included.

    def upgrade() -> None:
        upgrade_outbox(2)

    def downgrade() -> None:
        downgrade_outbox(0, since=2)

A migration names the versions it goes between, so that it always does the same, whichever outbox is
installed. Plain functions and not methods of `op`: they are found by a reader and a type checker, and
need no import for its side effect. Only this module imports Alembic.
"""

from alembic import op

from outbox.schema import downgrades, upgrades

__all__ = ["downgrade_outbox", "upgrade_outbox"]


def upgrade_outbox(to: int, *, since: int = 0) -> None:
    """Bring the outbox from one version of its schema to a later one; 0 is none at all.

    Raises `ValueError` for versions that are not known, or where there is nothing to do.
    """
    _check(since, to)
    for statement in upgrades(since=since, to=to):
        op.execute(statement)


def downgrade_outbox(to: int, *, since: int) -> None:
    """Take versions back, with what is in them; 0 drops the outbox and every message.

    Raises `ValueError` for versions that are not known, or where there is nothing to do.
    """
    _check(to, since)
    for statement in downgrades(since=since, to=to):
        op.execute(statement)


def _check(earlier: int, later: int) -> None:
    if earlier >= later:
        raise ValueError(f"there is nothing to do between version {earlier} and version {later}")
