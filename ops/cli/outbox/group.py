"""The command `innbox outbox` itself."""

from ops.cli.root import cli


@cli.group("outbox")
def outbox_group() -> None:
    """Look at the outbox of each database, share its work out, and repair it."""
