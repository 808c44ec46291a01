"""`topics`: created on the brokers and declared to the outbox."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

import outbox
from innbox_process.commands import CommandError
from relay.cli.deployment import Where, on_database
from relay.cli.lazy import Command
from relay.cli.output import as_json, print_found
from relay.topics import Topic, create_topics, of_cursors, of_messages


def _count(name: str, default: int, help_: str, *, envvar: str | None = None) -> Any:  # noqa: ANN401
    """Return an option for a number of something, at least one."""
    at_least_one = click.IntRange(min=1)
    return click.option(
        name, type=at_least_one, default=default, show_default=True, envvar=envvar, help=help_
    )


@click.command(cls=Command)
@click.argument("names", metavar="[NAME…]", nargs=-1)
@_count("--partitions", 6, "Of each topic that is created.", envvar="TOPIC_PARTITIONS")
@_count(
    "--replication",
    1,
    "Replicas of each partition; all but one have to be in sync.",
    envvar="TOPIC_REPLICATION",
)
@_count(
    "--retention-hours",
    168,
    "How long the brokers keep a message.",
    envvar="TOPIC_RETENTION_HOURS",
)
@_count("--value-bytes-max", 900_000, "The largest value that may be appended.")
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
