"""`innbox migrate | topics`: the steps before the processes are started."""

from pathlib import Path

import click

from innbox_process.commands import reported
from ops.cli.root import DATABASE, cli
from ops.environment import settings_for
from ops.topics import create_topics
from relay.cli.output import as_json, print_json, print_status, progress
from relay.cli.topics import print_topics


@cli.command()
@click.option("--to", "revision", default="head", show_default=True, help="A revision.")
@click.option(
    "--sql", is_flag=True, help="Print the SQL and change nothing; --to FROM:TO selects revisions."
)
@as_json
@click.pass_obj
def migrate(data: Path, revision: str, sql: bool, as_json: bool) -> None:
    """Migrate every database of the settings to the newest schema.

    \b
    innbox migrate
    innbox migrate --sql > schema.sql
    innbox migrate --sql --to 0002:head
    """
    from ops import migrate as migrations

    settings = settings_for(data, () if sql else DATABASE)
    if sql:
        click.echo(migrations.migration_sql(next(iter(settings.databases)), revision))
        return

    reached = {}
    with progress() as report:
        for url, contexts in reported(report, "migrating", list(settings.databases.items())):
            before, _ = migrations.current_and_head(url)
            migrations.migrate(url, revision)
            after, _ = migrations.current_and_head(url)
            reached[" and ".join(contexts)] = {"from": before, "to": after}
    if as_json:
        print_json({"databases": reached})
        return
    for contexts_of, change in reached.items():
        print_status(f"{contexts_of}: {change['from'] or 'nothing'} → {change['to']}")


@cli.command()
@as_json
@click.pass_obj
def topics(data: Path, as_json: bool) -> None:
    """Create the topics on the brokers and declare them to the outboxes.

    Partitions, replication and retention are TOPIC_PARTITIONS, TOPIC_REPLICATION and
    TOPIC_RETENTION_HOURS. An existing topic is left as it is.
    """
    print_topics(create_topics(settings_for(data)), as_json=as_json)
