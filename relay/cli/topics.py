"""`topics`: created on the brokers and declared to the outbox."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from relay.topics import Topic

from innbox_process.commands import CommandError
from relay.cli.deployment import Where, on_database
from relay.cli.lazy import Command
from relay.cli.output import as_json, print_json, print_table

VALUE_BYTES_MAX = 900_000


@click.command(cls=Command)
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option(
    "--partitions",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    envvar="TOPIC_PARTITIONS",
    help="Of each topic that is created.",
)
@click.option(
    "--replication",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    envvar="TOPIC_REPLICATION",
    help="Replicas of each partition; all but one have to be in sync.",
)
@click.option(
    "--retention-hours",
    type=click.IntRange(min=1),
    default=168,
    show_default=True,
    envvar="TOPIC_RETENTION_HOURS",
    help="How long the brokers keep a message.",
)
@click.option(
    "--value-bytes-max",
    type=click.IntRange(min=1),
    default=VALUE_BYTES_MAX,
    show_default=True,
    help="The largest value that may be appended.",
)
@as_json
@on_database
def topics(
    where: Where,
    *,
    names: tuple[str, ...],
    partitions: int,
    replication: int,
    retention_hours: int,
    value_bytes_max: int,
    as_json: bool,
) -> None:
    """Create topics on the brokers and declare them to the outbox.

    Without names, those of TOPICS. The topic of exactly-once mode's cursors is created as well. A topic
    that exists is left as it is: more partitions would break the order of its keys. Repeatable.

    \b
    PROGRAM topics orders shipments --partitions 12 --replication 3
    """
    from relay.topics import create_topics, declare, of_cursors, of_messages

    database = where.one()
    config = where.config(database)
    chosen = names or config.topics
    if not chosen:
        raise CommandError("no topic is named: give names, or set TOPICS")
    ours = of_messages(
        partitions,
        replication,
        retention_hours=retention_hours,
        value_bytes_max=value_bytes_max,
    )
    wanted = dict.fromkeys((config.topic_prefix + name for name in chosen), ours)
    cursors = {config.cursor_topic_name: of_cursors(replication)}
    found = create_topics(config.kafka, wanted | cursors)
    declare([database.url], dict.fromkeys(chosen, value_bytes_max), prefix=config.topic_prefix)
    print_topics(found, as_json=as_json)


def print_topics(found: "Sequence[Topic]", *, as_json: bool) -> None:
    """Print each topic as it is now, and whether it is new."""
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
