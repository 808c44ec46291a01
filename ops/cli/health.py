"""`innbox health`: that of `relay.cli`."""

from ops.cli.root import cli
from relay.cli.health import health

cli.add_command(health)
