"""`innbox outbox`: the operators' commands of `relay.cli`, for innbox's databases."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from innbox_process.commands import Report
from ops.cli.root import DATABASE, cli
from ops.environment import settings_for
from relay.cli.lazy import LazyGroup
from relay.cli.root import OPERATORS

if TYPE_CHECKING:
    from relay.audit import Window
    from relay.config import RelayConfig
    from relay.databases import Database

_CONSUMED = """
--consumed reads the contexts' tables as well: a record that its consumer group is past has an
allocation, a settled reservation or a dead letter, or it was never consumed, and the exit code is 1.

"""


class _Outbox(LazyGroup):
    listed = OPERATORS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command and cmd_name == "audit":
            _add_consumed(command)
        return command


@cli.group("outbox", cls=_Outbox)
@click.pass_context
def outbox(context: click.Context) -> None:
    """Look at the outbox of each database, share its work out, and repair it."""
    context.obj = InnboxOutboxes(context.obj)


@dataclass(frozen=True, slots=True)
class InnboxOutboxes:
    """innbox's databases and cluster, as the operators' commands see them."""

    data: Path
    command: str = "innbox outbox"

    def databases(self) -> "Sequence[Database]":
        from ops.relay_config import databases_of

        return databases_of(settings_for(self.data, DATABASE))

    def relay_config(self, database: "Database", *, asks_kafka: bool = True) -> "RelayConfig":
        from ops.relay_config import relay_config

        needs = (*DATABASE, "kafka_bootstrap_servers") if asks_kafka else DATABASE
        settings = settings_for(self.data, needs)
        return relay_config(settings, settings.databases[database.url][0])

    def never_consumed(
        self, window: "Window", topics: Collection[str], report: Report
    ) -> list[dict[str, Any]]:
        """Return the window's records that their consumer group is past without an effect."""
        from ops.verify import find_unconsumed

        settings = settings_for(self.data)
        return find_unconsumed(
            settings, report, since=window.since, until=window.until, topics=topics
        )


def _add_consumed(audit: click.Command) -> None:
    """Give the command an option that has it ask the domain, of which the audit knows nothing."""
    from relay.cli.audit import Also

    assert audit.callback
    audit_alone = audit.callback

    @click.pass_obj
    def audit_consumed(outboxes: InnboxOutboxes, /, *, consumed: bool, **options: Any) -> Any:  # noqa: ANN401
        also = Also("never_consumed", outboxes.never_consumed, _passed_over) if consumed else None
        return audit_alone(also=also, **options)

    described, examples, lines = cleandoc(audit.help or "").partition("\b")
    more = click.Option(
        ["--consumed"], is_flag=True, help="Also look for what the consumers passed over."
    )
    audit.params = [*audit.params, more]  # a new list, since copies share theirs
    audit.callback = audit_consumed
    audit.help = f"{described}{_CONSUMED.lstrip()}{examples}{lines}"


def _passed_over(record: dict[str, Any]) -> str:
    return (
        "{topic}: never consumed: message {message_id}, key {key}, partition {partition} "
        "offset {offset}: {found}".format(**record)
    )
