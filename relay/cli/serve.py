"""`run`: the relay as a process."""

import sys
from dataclasses import replace
from typing import get_args

import click
import structlog

from innbox_process.logs import configure_logs
from relay import process
from relay.cli.deployment import Where, on_database
from relay.cli.environment import VARIABLES, log_config
from relay.cli.exits import FAILED, expected, in_words
from relay.config import Mode


class _Run(click.Command):
    """Its help ends with the variables of the environment."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Environment"):
            formatter.write_dl([(name, variable.help) for name, variable in VARIABLES.items()])


@click.command(cls=_Run)
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    help="Default: RELAY_MODE, or at-least-once.",
)
@on_database
def run(where: Where, *, mode: Mode | None) -> None:
    """Publish the outbox to Kafka until SIGTERM.

    Several relays of one database share its shards; those beyond are hot standbys. It may be started
    before its tables and topics are there: it waits for them, and names the command that is missing.

    \b
    PROGRAM run
    PROGRAM run --mode exactly-once
    """
    config = where.config(where.one())
    if mode:
        config = replace(config, mode=mode)
    configure_logs(log_config(), "relay")
    try:
        process.run(config)
    except expected() as error:
        # A line of the log, which programs read, and no text among its lines.
        structlog.get_logger(__name__).critical(
            "the process cannot continue", reason=in_words(error)
        )
        sys.exit(FAILED)
