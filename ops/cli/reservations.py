"""`innbox reserve | cancel | reservations`: a member's commands, over HTTP."""

from collections.abc import Sequence
from datetime import date
from itertools import islice

import click
import msgspec

from innbox_client import Filters, Innbox, Reservation, Transition
from ops.cli.api_client import given, key_option, limit_option, print_found, with_client
from ops.cli.dates import Day, arrives, leaves, shown, shown_instant
from ops.cli.root import cli
from relay.cli.output import print_status, print_table

REFUSED = 1
UNANSWERED = 3
STATUSES = ("PENDING", "CONFIRMED", "REJECTED", "CANCELLING", "CANCELLED")

_id = click.argument("reservation_id", metavar="ID", type=click.IntRange(min=1))
_wait = click.option(
    "--wait",
    type=click.IntRange(0, 3_600),
    metavar="SECONDS",
    help="Wait for the rooms' answer, at most as long as the API allows.",
)


@cli.command()
@click.option("--room", type=click.IntRange(min=1), required=True, help="The room's id.")
@arrives
@leaves
@click.option("--member", type=click.IntRange(min=1), help="The guest, if you are staff.")
@_wait
@key_option
@with_client()
def reserve(
    innbox: Innbox,
    room: int,
    check_in: date,
    check_out: date,
    member: int | None,
    wait: int | None,
    key: str,
    as_json: bool,
) -> int:
    """Reserve a room.

    With --wait, exit code 0 means confirmed, 1 refused by the rooms, and 3 not answered yet. Without
    --wait, 0 means that the request is accepted.

    \b
    innbox reserve --room 7 --check-in 2027-01-10 --check-out 2027-01-13 --wait 10
    innbox reserve --room 7 --check-in fri --check-out sun --member 42 --key party-of-ann
    """
    made = innbox.reserve(room, check_in, check_out, member_id=member, wait_s=wait, key=key)
    _show(made, as_json=as_json)
    return REFUSED if made.status == "REJECTED" else _waited(made, wait)


@cli.command()
@_id
@click.option("--if-version", type=click.IntRange(min=1), help="Only if it still has this version.")
@_wait
@key_option
@with_client()
def cancel(
    innbox: Innbox,
    reservation_id: int,
    if_version: int | None,
    wait: int | None,
    key: str,
    as_json: bool,
) -> int:
    """Cancel a reservation and give its nights back. A repeated cancel changes nothing.

    With --wait, exit code 3 means that the rooms have not answered yet.

    \b
    innbox cancel 12 --wait 10
    """
    left = innbox.cancel(reservation_id, version=if_version, wait_s=wait, key=key)
    _show(left, as_json=as_json)
    return _waited(left, wait)


class _ListByDefault(click.Group):
    """Options without a command are those of `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@cli.group(cls=_ListByDefault)
def reservations() -> None:
    """List reservations, or show one. A member sees their own, staff see all.

    \b
    innbox reservations                                       the same as: list
    innbox reservations --status confirmed --from today
    innbox reservations show 12
    innbox reservations history 12
    innbox reservations watch 12
    """


@reservations.command("list")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False))
@click.option("--room", "room_id", type=click.IntRange(min=1), help="A room's id.")
@click.option("--from", "from_on", type=Day(), is_eager=True, help="Check-in on this day or later.")
@click.option("--to", "to_on", type=Day(behind="from_on"), help="Check-in on this day or earlier.")
@click.option(
    "--member", "member_id", type=click.IntRange(min=1), help="A member's, if you are staff."
)
@limit_option
@with_client()
def list_(
    innbox: Innbox,
    from_on: date | None,
    to_on: date | None,
    limit: int,
    as_json: bool,
    **others: object,
) -> None:
    """List reservations, newest first."""
    filters = given(Filters, check_in_from=from_on, check_in_to=to_on, **others)
    found = list(islice(innbox.reservations(**filters), limit))
    columns = ("id", "member", "room", "check-in", "check-out", "status", "reason")
    rows = map(_row, found)
    print_found(as_json, {"reservations": found}, print_table, "Reservations", columns, rows)


@reservations.command()
@_id
@with_client()
def show(innbox: Innbox, reservation_id: int, as_json: bool) -> None:
    """Show one reservation."""
    _show(innbox.get(reservation_id), as_json=as_json)


@reservations.command()
@_id
@with_client()
def history(innbox: Innbox, reservation_id: int, as_json: bool) -> None:
    """Show the changes of a reservation and their actors, oldest first."""
    found = innbox.history(reservation_id)
    columns = ("version", "at", "status", "by", "reason", "trace")
    rows = [(*_cells(one), one.trace_id) for one in found]
    title = f"History of reservation {reservation_id}"
    print_found(as_json, {"history": found}, print_table, title, columns, rows)


@reservations.command()
@_id
@click.option("--until-answered", is_flag=True, help="End when the rooms have answered.")
@with_client(json="Print one JSON object a line.")
def watch(innbox: Innbox, reservation_id: int, until_answered: bool, as_json: bool) -> None:
    """Print the changes of a reservation, from the first, until its final status or Ctrl-C."""
    for one in innbox.events(reservation_id):
        if as_json:
            click.echo(msgspec.json.encode(one))
        else:
            click.echo("  ".join(str(word) for word in _cells(one) if word is not None))
        if until_answered and not one.open:
            return


def _waited(one: Reservation, wait_s: int | None) -> int:
    """Return the exit code after a wait, and report a missing answer."""
    if not (wait_s and one.open):
        return 0
    print_status(
        f"Accepted, but the rooms have not answered yet: innbox reservations watch {one.id}"
    )
    return UNANSWERED


def _show(one: Reservation, *, as_json: bool) -> None:
    rows = [
        ("status", one.status),
        *([("reason", one.reason)] if one.reason else []),
        ("member", one.member_id),
        ("room", one.room_id),
        ("check-in", shown(one.check_in)),
        ("check-out", shown(one.check_out)),
        ("version", one.version),
        ("created", shown_instant(one.created_at)),
        ("updated", shown_instant(one.updated_at)),
    ]
    print_found(as_json, one, print_table, f"Reservation {one.id}", ("", ""), rows)


def _row(one: Reservation) -> Sequence[object]:
    days = (shown(one.check_in), shown(one.check_out))
    return (one.id, one.member_id, one.room_id, *days, one.status, one.reason)


def _cells(one: Transition) -> Sequence[object]:
    return (one.version, shown_instant(one.at), one.status, one.by, one.reason)
