"""The command `innbox` itself, and which commands it has."""

from importlib import import_module
from pathlib import Path

import click

from ops.environment import DEFAULT_DATA

COMMANDS = (
    "processes",
    "deploy",
    "servers",
    "reservations",
    "inventory",
    "loading",
    "letters",
    "outbox.look",
    "outbox.blocked",
    "outbox.reshard",
    "outbox.audit",
    "outbox.acknowledge",
    "outbox.rebase",
    "outbox.replay",
    "proof",
    "bench",
    "bench_http",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="innbox")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA,
    envvar="INNBOX_DATA",
    show_default=True,
    help="Directory of the embedded servers.",
)
@click.pass_context
def cli(context: click.Context, data: Path) -> None:
    """Hotel reservations that cannot be lost.

    \b
    Try it:      innbox demo
    Run it here: innbox up
    Use it:      innbox reserve | cancel | reservations | availability | inventory
    Deploy it:   innbox migrate, innbox topics, then innbox api | relay | rooms | results

    DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name your servers; without them the embedded ones of
    --data are used.
    """
    context.obj = data


def register() -> None:
    """Import the modules whose commands register themselves with `cli`."""
    for module in COMMANDS:
        import_module(f"ops.cli.{module}")
