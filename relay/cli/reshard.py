"""`split` and `merge`: more shards, for more relays to share; or fewer."""

from collections.abc import Callable
from functools import partial
from threading import Event

import click
from sqlalchemy import Engine

from innbox_process.commands import CommandError
from innbox_process.shutdown import stop_on_signals
from outbox import OutboxError
from outbox.reader import Shard
from relay.cli.deployment import Where, on_database
from relay.cli.exits import INTERRUPTED
from relay.cli.output import as_json, print_json, print_status, progress
from relay.cli.shards import shown
from relay.commands.lease import NotHandedOver
from relay.commands.reshard import merge_shards, split_shard
from relay.config import RelayConfig
from relay.publishing.errors import Abandoned, PublishRefused

WAIT_S = 60.0
# Each shard costs its relay a thread, a producer and a connection.
PARTS_MAX = 64

_wait = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=WAIT_S,
    show_default=True,
    help="Seconds for its relay to hand it over, or for a dead one's lease to run out.",
)


@click.command()
@click.argument("shard", type=int)
@click.option(
    "--into", type=click.IntRange(2, PARTS_MAX), default=2, show_default=True, help="Equal parts."
)
@_wait
@as_json
@on_database
def split(where: Where, *, shard: int, into: int, wait_s: float, as_json: bool) -> int:
    """Make several shards of one, while all runs; `PROGRAM shards` lists them.

    Nothing is published twice for it, lost or swapped. Its relay hands the shard over for a moment.

    \b
    PROGRAM split 1 --into 4
    """
    change = partial(split_shard, shard_id=shard, into=into, wait_s=wait_s)
    return _changed(where, change, as_json=as_json)


@click.command()
@click.argument("shard", type=int)
@click.argument("neighbour", type=int)
@_wait
@as_json
@on_database
def merge(where: Where, *, shard: int, neighbour: int, wait_s: float, as_json: bool) -> int:
    """Make one shard of two that lie side by side, while all runs.

    Nothing is published twice for it, lost or swapped. What the two have not published yet is published
    first, as far as it is there when they are acquired; what is appended meanwhile waits. So it is
    quickest without a backlog.

    \b
    PROGRAM merge 4 5
    """

    def change(engine: Engine, config: RelayConfig, stop: Event) -> list[Shard]:
        with progress() as report:
            return [merge_shards(engine, config, stop, [shard, neighbour], report, wait_s=wait_s)]

    return _changed(where, change, as_json=as_json)


def _changed(
    where: Where,
    change: Callable[[Engine, RelayConfig, Event], list[Shard]],
    *,
    as_json: bool,
) -> int:
    with (
        where.session(where.one(), "reshard") as (engine, config),
        stop_on_signals(config.shutdown_s) as stop,
    ):
        try:
            made = change(engine, config, stop)
        except Abandoned:
            print_status("Interrupted; the shards are as they were.")
            return INTERRUPTED
        except NotHandedOver as error:
            raise CommandError(
                f"{error}; nothing was changed. Is that relay stuck? Try again, or with a longer --wait"
            ) from error
        except PublishRefused as error:
            raise CommandError(
                f"nothing was changed: {error}. Its relay will block the key; then try again"
            ) from error
        except OutboxError as error:
            raise CommandError(f"nothing was changed: {error}") from error
    if as_json:
        print_json({"shards": [shown(shard) for shard in made]})
    else:
        print_status(f"Made {', '.join(f'shard {shard.id}' for shard in made)}.")
    return 0
