"""`innbox migrate | topics | token | health`: what goes on around the processes."""

from dataclasses import asdict
from pathlib import Path

import click
import httpx

from ops.cli.output import as_json, print_json, print_table, progress, say
from ops.cli.root import cli
from ops.environment import settings_for
from ops.errors import CommandError
from ops.topics import create_topics

NOT_READY = 1
DATABASE = ("database_url",)


@cli.command()
@click.option("--to", "revision", default="head", show_default=True, help="A revision.")
@click.option(
    "--sql", is_flag=True, help="Print the SQL and touch nothing. --to FROM:TO for a part."
)
@as_json
@click.pass_obj
def migrate(data: Path, revision: str, sql: bool, as_json: bool) -> None:
    """Bring every database of the settings to the newest schema.

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
        for number, (url, contexts) in enumerate(settings.databases.items()):
            report("migrating", number, len(settings.databases))
            before, _ = migrations.current_and_head(url)
            migrations.migrate(url, revision)
            after, _ = migrations.current_and_head(url)
            reached[" and ".join(contexts)] = {"from": before, "to": after}
    if as_json:
        print_json({"databases": reached})
    for contexts_of, change in reached.items() if not as_json else ():
        say(f"{contexts_of}: {change['from'] or 'nothing'} → {change['to']}")


@cli.command()
@as_json
@click.pass_obj
def topics(data: Path, as_json: bool) -> None:
    """Create the topics on the brokers and declare them to the outboxes.

    Partitions, replication and retention are TOPIC_PARTITIONS, TOPIC_REPLICATION and
    TOPIC_RETENTION_HOURS. What exists is left as it is.
    """
    found = create_topics(settings_for(data))
    if as_json:
        print_json({"topics": [asdict(topic) for topic in found]})
        return
    print_table(
        "Topics",
        ("topic", "partitions", "replicas", ""),
        [
            (topic.name, topic.partitions, topic.replication, "created" if topic.created else "")
            for topic in found
        ],
    )


@cli.command()
@click.option("--member", type=click.IntRange(min=1), required=True, help="The member's id.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("read", "write"),
    show_default="read and write",
    help="read, write, staff, inventory or operate. May be repeated.",
)
@click.option("--hours", type=float, default=12.0, show_default=True, help="How long it is valid.")
@click.pass_obj
def token(data: Path, member: int, scopes: tuple[str, ...], hours: float) -> None:
    """Sign a bearer token for a member (development only).

    \b
    curl -H "Authorization: Bearer $(innbox token --member 7)" …
    """
    from api.identity.auth import sign

    click.echo(sign(settings_for(data, ()), member, scopes=scopes, lifetime_s=hours * 3600))


@cli.command()
@click.argument("url")
def health(url: str) -> int:
    """Ask a process whether it is ready: exit code 0 if so, 1 if not, 2 if nobody answers.

    \b
    innbox health http://127.0.0.1:9000
    """
    try:
        answer = httpx.get(f"{url.rstrip('/')}/healthz/ready", timeout=5)
    except httpx.TransportError as error:
        raise CommandError(f"{url} does not answer: {error}") from error
    click.echo(answer.text)
    return 0 if answer.is_success else NOT_READY
