"""`innbox token`: a bearer token for development."""

from pathlib import Path

import click

from api.identity.signing import sign
from ops.cli.root import cli
from ops.environment import settings_for


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
    click.echo(sign(settings_for(data, ()), member, scopes=scopes, lifetime_s=hours * 3600))
