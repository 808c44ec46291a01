"""The command `innbox-relay` itself, and which commands it has."""

import click

from relay.cli.lazy import LazyGroup, Listed

PROGRAM = "innbox-relay"

# What operators do with any outbox; other command lines may show these as well.
OPERATORS = {
    "shards": Listed(
        "relay.cli.shards",
        "shards",
        "List the shards: their keys, relays and cursors, and what waits (an estimate).",
    ),
    "partitions": Listed(
        "relay.cli.shards", "partitions", "List the daily partitions, oldest first."
    ),
    "split": Listed("relay.cli.reshard", "split", "Make several shards of one, while all runs."),
    "merge": Listed(
        "relay.cli.reshard", "merge", "Make one shard of two that lie side by side, while all runs."
    ),
    "blocked": Listed(
        "relay.cli.blocked",
        "blocked_group",
        "Look at keys whose message the brokers refuse, and decide about them.",
    ),
    "audit": Listed(
        "relay.cli.audit",
        "audit",
        "Hold the outbox against the topics: what is missing, repeated or out of order.",
    ),
    "acknowledge": Listed(
        "relay.cli.acknowledge",
        "acknowledge",
        "Acknowledge findings of an audit, so that they no longer make it fail.",
    ),
    "replay": Listed(
        "relay.cli.replay", "replay", "Publish messages again that the outbox still has."
    ),
    "replays": Listed(
        "relay.cli.replay", "replays", "List the replays of each database, the newest 100 first."
    ),
    "rebase": Listed(
        "relay.cli.rebase",
        "rebase",
        "Make a restored database's sequences and cursors right, so that nothing is lost.",
    ),
}
COMMANDS = {
    "migrate": Listed(
        "relay.cli.migrate",
        "migrate",
        "Make the outbox's tables, or bring them to the newest version.",
    ),
    "topics": Listed(
        "relay.cli.topics", "topics", "Create topics on the brokers and declare them to the outbox."
    ),
    "run": Listed("relay.cli.serve", "run", "Publish the outbox to Kafka until SIGTERM."),
    "health": Listed("relay.cli.health", "health", "Check whether a process is ready."),
    **OPERATORS,
}


class _InnboxRelay(LazyGroup):
    listed = COMMANDS


@click.group(
    PROGRAM,
    cls=_InnboxRelay,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="innbox-relay")
@click.pass_context
def cli(context: click.Context) -> None:
    """Publish a Postgres outbox to Kafka, and look after it.

    \b
    Prepare:  innbox-relay migrate, then innbox-relay topics NAME…
    Run:      innbox-relay run
    Operate:  innbox-relay shards | blocked | audit | replay | rebase

    DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name the servers. All variables: innbox-relay run --help.
    """
    from relay.cli.environment import EnvironmentDeployment

    context.obj = EnvironmentDeployment()
