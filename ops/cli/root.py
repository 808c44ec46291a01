"""The command `innbox` itself, and the list of its commands.

A command's module is imported when the command runs, so that no command waits for another's imports.
"""

from pathlib import Path

import click

from relay.cli.lazy import LazyGroup, Listed

DEFAULT_DATA = Path(".innbox")
# What `settings_for` is asked for by a command that does without Kafka.
DATABASE = ("database_url",)

# By its module and its name there.
_SUMMARIES = {
    "processes.api": "Serve the REST API.",
    "inventory.availability": "Search the rooms that are free for a stay.",
    "bench.bench": "Measure performance beside a baseline in the same run.",
    "reservations.cancel": "Cancel a reservation and give its nights back.",
    "dead_letters.dead_letters": "Show messages that could not be applied, and retry or discard them.",
    "verify.demo": "Reserve through HTTP, Postgres and Kafka, kill processes on the way, and verify.",
    "health.health": "Check whether a process is ready.",
    "loading.inventory": "Show and change rooms and their nights.",
    "servers.local": "Start and stop Postgres and Kafka servers on this machine.",
    "deploy.migrate": "Migrate every database of the settings to the newest schema.",
    "outbox.outbox": "Look at the outbox of each database, share its work out, and repair it.",
    "processes.relay": "Publish the outbox of one database to Kafka.",
    "reservations.reservations": "List reservations, or show one.",
    "reservations.reserve": "Reserve a room.",
    "processes.results": "Settle reservations by the rooms' answers.",
    "processes.rooms": "Apply requests to the rooms' inventory, and answer them.",
    "token.token": "Sign a bearer token for a member (development only).",
    "deploy.topics": "Create the topics on the brokers and declare them to the outboxes.",
    "servers.up": "Run everything on this machine until Ctrl-C.",
    "verify.verify": "Check the invariants in the databases and the topics, while the system runs.",
}
COMMANDS = {
    attribute.replace("_", "-"): Listed(f"ops.cli.{module}", attribute, summary)
    for (module, attribute), summary in ((path.split("."), _SUMMARIES[path]) for path in _SUMMARIES)
}


class Innbox(LazyGroup):
    listed = COMMANDS


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
