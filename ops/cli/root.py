"""The command `innbox` itself, and the list of its commands.

A command's module is imported when the command runs, so that no command waits for another's imports.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click

DEFAULT_DATA = Path(".innbox")


class Listed(NamedTuple):
    """A command's modules and help, known before they are imported."""

    modules: tuple[str, ...]
    help: str


COMMANDS = {
    "api": Listed(("processes",), "Serve the REST API."),
    "availability": Listed(("inventory",), "Search the rooms that are free for a stay."),
    "bench": Listed(
        ("bench", "bench_http"), "Measure performance beside a baseline in the same run."
    ),
    "cancel": Listed(("reservations",), "Cancel a reservation and give its nights back."),
    "dead-letters": Listed(
        ("dead_letters",), "Show messages that could not be applied, and retry or discard them."
    ),
    "demo": Listed(
        ("verify",),
        "Reserve through HTTP, Postgres and Kafka, kill processes on the way, and verify.",
    ),
    "health": Listed(("health",), "Check whether a process is ready."),
    "inventory": Listed(("inventory", "loading"), "Show and change rooms and their nights."),
    "local": Listed(("servers",), "Start and stop Postgres and Kafka servers on this machine."),
    "migrate": Listed(("deploy",), "Migrate every database of the settings to the newest schema."),
    "outbox": Listed(
        ("outbox",), "Look at the outbox of each database, share its work out, and repair it."
    ),
    "relay": Listed(("processes",), "Publish the outbox of one database to Kafka."),
    "reservations": Listed(("reservations",), "List reservations, or show one."),
    "reserve": Listed(("reservations",), "Reserve a room."),
    "results": Listed(("processes",), "Settle reservations by the rooms' answers."),
    "rooms": Listed(("processes",), "Apply requests to the rooms' inventory, and answer them."),
    "token": Listed(("token",), "Sign a bearer token for a member (development only)."),
    "topics": Listed(
        ("deploy",), "Create the topics on the brokers and declare them to the outboxes."
    ),
    "up": Listed(("servers",), "Run everything on this machine until Ctrl-C."),
    "verify": Listed(
        ("verify",),
        "Check the invariants in the databases and the topics, while the system runs.",
    ),
}


class Innbox(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for module in COMMANDS[cmd_name].modules if cmd_name in COMMANDS else ():
            import_module(f"ops.cli.{module}")  # its commands register themselves
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, listed.help) for name, listed in COMMANDS.items()])


@click.group(
    cls=Innbox, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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

    DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name your servers. Without them the commands use the
    embedded ones of --data.
    """
    context.obj = data
