"""`innbox api | relay | rooms | results`: the four processes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
import structlog

from innbox_process.logs import configure_logs
from ops.cli import expected, in_words
from ops.cli.root import cli
from ops.environment import settings_for
from ops.signals import end_with_supervisor
from relay.cli import exits
from runtime.settings import Context, RelayMode, Settings

_log = structlog.get_logger(__name__)


@cli.command()
@click.option("--port", type=int, help="Default: API_PORT, or 8000.")
@click.pass_obj
def api(data: Path, port: int | None) -> None:
    """Serve the REST API."""
    from api.serving.process import run

    _run(data, "api", run, api_port=port)


@cli.command()
@click.option(
    "--context",
    type=click.Choice(get_args(Context)),
    help="The context whose outbox to relay. Default: RELAY_CONTEXT, or reservations.",
)
@click.option(
    "--mode", type=click.Choice(get_args(RelayMode)), help="Default: RELAY_MODE, or at-least-once."
)
@click.pass_obj
def relay(data: Path, context: str | None, mode: str | None) -> None:
    """Publish the outbox of one database to Kafka.

    Several relays of one database share its shards; a relay without a shard is a hot standby.

    \b
    innbox relay
    innbox relay --context rooms --mode exactly-once
    """
    from ops.relay_config import relay_config
    from relay.process import run

    def run_relay(settings: Settings) -> None:
        run(relay_config(settings))

    _run(data, "relay", run_relay, relay_context=context, relay_mode=mode)


@cli.command()
@click.pass_obj
def rooms(data: Path) -> None:
    """Apply requests to the rooms' inventory, and answer them."""
    from consumers.process import run_rooms

    _run(data, "rooms", run_rooms)


@cli.command()
@click.pass_obj
def results(data: Path) -> None:
    """Settle reservations by the rooms' answers."""
    from consumers.process import run_results

    _run(data, "results", run_results)


def _run(data: Path, name: str, run: Callable[[Settings], None], **options: object) -> None:
    """Run a process with its settings, which the options that are given override."""
    end_with_supervisor()
    given = {option: value for option, value in options.items() if value is not None}
    settings = settings_for(data, **given)
    configure_logs(settings, name)
    try:
        run(settings)
    except expected() as error:
        # A line of the log, since programs read it, and not a plain text.
        _log.critical("the process cannot continue", reason=in_words(error))
        sys.exit(exits.FAILED)
