"""`innbox outbox split | merge`: more shards, for more relays to share; or fewer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, get_args

import click
from sqlalchemy import Engine

from innbox_process.config import FOR_A_PERSON
from innbox_process.database import direct_engine
from innbox_process.logs import configure_logs
from innbox_process.shutdown import stop_on_signals
from ops.cli.outbox.group import outbox_group
from ops.cli.outbox.look import shown
from ops.cli.output import as_json, print_json, progress, say
from ops.cli.run import INTERRUPTED
from ops.environment import settings_for
from ops.errors import CommandError
from ops.relay_config import relay_config
from outbox import OutboxError
from outbox.reader import Shard
from relay.config import RelayConfig
from runtime.settings import Context

WAIT_S = 60.0
# Each shard costs its relay a thread, a producer and a connection.
PARTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Place:
    """A database's outbox, as a change of its shards needs it."""

    engine: Engine
    config: RelayConfig
    stop: Event


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that both have."""
    for option in (
        as_json,
        click.option(
            "--context",
            type=click.Choice(get_args(Context)),
            help="Whose outbox, where the two contexts have a database each.",
        ),
        click.option(
            "--wait",
            "wait_s",
            type=click.FloatRange(min=0),
            default=WAIT_S,
            show_default=True,
            help="Seconds for its relay to hand it over, or for a dead one's lease to run out.",
        ),
    ):
        command = option(command)
    return command


@outbox_group.command()
@click.argument("shard", type=int)
@click.option(
    "--into", type=click.IntRange(2, PARTS_MAX), default=2, show_default=True, help="Equal parts."
)
@_options
@click.pass_obj
def split(
    data: Path, shard: int, into: int, wait_s: float, context: Context | None, as_json: bool
) -> int:
    """Make several shards of one, while all runs; `innbox outbox shards` lists them.

    Nothing is published twice for it, lost or swapped. Its relay hands the shard over for a moment.

    \b
    innbox outbox split 1 --into 4
    """
    from relay.resharding import split_shard

    def change(place: Place) -> list[Shard]:
        return split_shard(place.engine, place.config, place.stop, shard, into=into, wait_s=wait_s)

    return _changed(data, context, change, as_json=as_json)


@outbox_group.command()
@click.argument("shard", type=int)
@click.argument("neighbour", type=int)
@_options
@click.pass_obj
def merge(
    data: Path, shard: int, neighbour: int, wait_s: float, context: Context | None, as_json: bool
) -> int:
    """Make one shard of two that lie side by side, while all runs.

    Nothing is published twice for it, lost or swapped. What the two have not published yet is published
    first, as far as it is there when they are in hand; what is appended meanwhile waits. So it is
    quickest without a backlog.

    \b
    innbox outbox merge 4 5
    """
    from relay.resharding import merge_shards

    def change(place: Place) -> list[Shard]:
        ids = [shard, neighbour]
        with progress() as report:
            return [
                merge_shards(place.engine, place.config, place.stop, ids, report, wait_s=wait_s)
            ]

    return _changed(data, context, change, as_json=as_json)


def _changed(
    data: Path,
    context: Context | None,
    change: Callable[[Place], list[Shard]],
    *,
    as_json: bool,
) -> int:
    from relay.errors import Abandoned, Refused
    from relay.owning import NotHandedOver

    with _place(data, context) as place:
        try:
            made = change(place)
        except Abandoned:
            say("Interrupted; the shards are as they were.")
            return INTERRUPTED
        except NotHandedOver as error:
            raise CommandError(
                f"{error}; nothing was changed. Is that relay stuck? Try again, or with a longer --wait"
            ) from error
        except Refused as error:
            raise CommandError(
                f"nothing was changed: {error}. Its relay will block the key; then try again"
            ) from error
        except OutboxError as error:
            raise CommandError(f"nothing was changed: {error}") from error
    if as_json:
        print_json({"shards": [shown(shard) for shard in made]})
    else:
        say(f"Made {', '.join(f'shard {shard.id}' for shard in made)}.")
    return 0


@contextmanager
def _place(data: Path, context: Context | None) -> Iterator[Place]:
    settings = settings_for(data)
    if context is None and len(settings.databases) > 1:
        raise CommandError("the contexts have a database each: say --context rooms or reservations")
    configure_logs(FOR_A_PERSON, "reshard")
    engine = direct_engine(settings, settings.database_of(context or "reservations"), "reshard")
    with stop_on_signals(settings.shutdown_s) as stop:
        yield Place(engine, relay_config(settings, context), stop)
    engine.dispose()
