"""`innbox local` and `innbox up`: the servers, and all of innbox, on this machine."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from ops.cli.root import cli
from ops.environment import embedded_servers
from relay.cli.output import as_json, print_found, print_json, print_status

brokers_option = click.option(
    "--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True
)


@cli.group()
def local() -> None:
    """Start and stop Postgres and Kafka servers on this machine, without Docker.

    \b
    innbox local start              one broker
    innbox local start --brokers 3  a cluster
    """


@local.command()
@brokers_option
@as_json
@click.pass_obj
def start(data: Path, brokers: str, as_json: bool) -> None:
    """Start the servers and leave them running. The first start downloads Kafka (about 45 MB)."""
    servers = embedded_servers().start(data, brokers=int(brokers), report=print_status)
    if as_json:
        print_json(asdict(servers))
        return
    click.echo(f"DATABASE_URL={servers.database_url}")
    click.echo(f"KAFKA_BOOTSTRAP_SERVERS={servers.kafka_bootstrap_servers}")


@local.command()
@click.pass_obj
def stop(data: Path) -> None:
    """Stop the servers and keep their data."""
    embedded_servers().stop(data, report=print_status)


@local.command()
@as_json
@click.pass_obj
def status(data: Path, as_json: bool) -> None:
    """Show each server: its state, port, data and log."""
    rows = embedded_servers().status(data)
    found = {"servers": [asdict(row) | {"state": row.state} for row in rows]}
    columns = ("server", "state", "pid", "version", "url", "log")
    cells = [(row.name, row.state, row.pid, row.version, row.url, row.log) for row in rows]
    print_found(found, f"Servers of {data}", columns, cells, as_json=as_json)


@local.command()
@click.confirmation_option("--yes", prompt="Erase the servers' data?")
@click.pass_obj
def reset(data: Path) -> None:
    """Stop the servers and erase their data, and the logs and the key of `innbox up`."""
    embedded_servers().reset(data, report=print_status)


@cli.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="The API's port; 0 chooses a free one.",
)
@brokers_option
@click.pass_obj
def up(data: Path, port: int, brokers: str) -> None:
    """Run everything on this machine until Ctrl-C: servers, API, relay and consumers.

    A process that dies is restarted. The data is kept in --data.
    """
    from ops.up import run_up

    run_up(data, port=port, brokers=int(brokers))


@contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """Make a directory for the length of a block; it is kept, with its logs, if the block fails."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    with ExitStack() as removed:
        removed.callback(shutil.rmtree, directory, ignore_errors=True)
        try:
            yield directory
        except Exception:  # if it is interrupted, the logs are of no use
            removed.pop_all()
            print_status(f"The logs are kept in {directory}.")
            raise
