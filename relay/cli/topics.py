"""`topics`: created on the brokers and declared to the outbox."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import click

import outbox
from innbox_process.commands import CommandError
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, print_found
from relay.topics import Topic, create_topics, of_cursors, of_messages

_count = partial(click.option, type=click.IntRange(min=1), show_default=True)


@click.command()
@click.argument("names", metavar="[NAME…]", nargs=-1)
@_count("--partitions", default=6, envvar="TOPIC_PARTITIONS", help="Of each topic that is created.")
@_count(
    "--replication",
    default=1,
    envvar="TOPIC_REPLICATION",
    help="Replicas of each partition; all but one have to be in sync.",
)
@_count(
    "--retention-hours",
    default=168,
    envvar="TOPIC_RETENTION_HOURS",
    help="How long the brokers keep a message.",
)
@_count("--value-bytes-max", default=900_000, help="The largest value that may be appended.")
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
    declared = dict.fromkeys(chosen, value_bytes_max)
    with where.engine(database) as engine, engine.begin() as connection:
        outbox.declare_topics(connection, declared, prefix=config.topic_prefix)
    print_topics(found, as_json=as_json)


def print_topics(found: Sequence[Topic], *, as_json: bool) -> None:
    """Print each topic as it is now, and whether it is new."""
    rows = [
        (topic.name, topic.partitions, topic.replication, "created" if topic.created else "")
        for topic in found
    ]
    content = {"topics": [asdict(topic) for topic in found]}
    columns = ("topic", "partitions", "replicas", "")
    print_found(content, "Topics", columns, rows, as_json=as_json)
