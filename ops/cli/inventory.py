"""`innbox availability | inventory`: the free rooms, and the calendar of all rooms."""

from collections.abc import Sequence
from datetime import date
from itertools import islice

import click

from innbox_client import Availability, FailingNight, Innbox, Night, NightsChange
from ops.cli.api_client import given, key_option, limit_option, print_found, with_client
from ops.cli.dates import Day, arrives, leaves, shown, weekdays
from ops.cli.root import cli
from relay.cli.output import print_status, print_table

NOT_BOOKABLE = 1
NIGHTS_NAMED_MAX = 3

_room = click.argument("room_id", metavar="ROOM", type=click.IntRange(min=1))
_from = click.option(
    "--from", "from_on", type=Day(), required=True, is_eager=True, help="The first night."
)
_to = click.option(
    "--to", "to_on", type=Day(behind="from_on"), required=True, help="The day after the last night."
)


@cli.command()
@arrives
@leaves
@click.option("--room", type=click.IntRange(min=1), help="Only this room.")
@click.option("--all", "every", is_flag=True, help="Also rooms that are not bookable, and why.")
@limit_option
@with_client()
def availability(
    innbox: Innbox,
    check_in: date,
    check_out: date,
    room: int | None,
    every: bool,
    limit: int,
    as_json: bool,
) -> int:
    """Search the rooms that are free for a stay. Exit code 1 if there is none.

    A search holds no room.

    \b
    innbox availability --check-in 2027-01-10 --check-out 2027-01-13
    innbox availability --check-in fri --check-out sun --all
    innbox availability --check-in 2027-01-10 --check-out 2027-01-13 --room 7
    """
    if room is not None:
        seen: Sequence[Availability] = [innbox.availability(room, check_in, check_out)]
        rows = [(room, *_row(one)) for one in seen]
        columns = ["room", "bookable", "free", "failing nights"]
    else:
        seen = found = list(islice(innbox.search(check_in, check_out, bookable=not every), limit))
        rows = [(one.room_id, one.name, *_row(one)) for one in found]
        columns = ["room", "name", "bookable", "free", "failing nights"]
    title = f"{shown(check_in)} to {shown(check_out)}"
    print_found(as_json, seen[0] if room else {"rooms": seen}, print_table, title, columns, rows)
    return 0 if any(one.bookable for one in seen) else NOT_BOOKABLE


@cli.group()
def inventory() -> None:
    """Show and change rooms and their nights. A change needs the scope `inventory`.

    \b
    innbox inventory rename 7 "Suite, lake"
    innbox inventory set 7 --from 2027-01-01 --to 2027-02-01 --capacity 2
    innbox inventory show 7 --from 2027-01-01 --to 2027-01-08
    innbox inventory load season.csv
    """


@inventory.command()
@with_client()
def rooms(innbox: Innbox, as_json: bool) -> None:
    """List the rooms."""
    found = list(innbox.rooms())
    rows = [(room.id, room.name) for room in found]
    print_found(as_json, {"rooms": found}, print_table, "Rooms", ("room", "name"), rows)


@inventory.command()
@_room
@click.argument("name")
@key_option
@with_client()
def rename(innbox: Innbox, room_id: int, name: str, key: str, as_json: bool) -> None:
    """Name a room; a new room is created."""
    named = innbox.set_room(room_id, name, key=key)
    print_found(as_json, named, print_status, f"Room {named.id} is {named.name}.")


@inventory.command("show")
@_room
@_from
@_to
@with_client()
def show_nights(innbox: Innbox, room_id: int, from_on: date, to_on: date, as_json: bool) -> None:
    """Show the nights of a room: capacity, held and free rooms, and rules."""
    found = innbox.calendar(room_id, from_on, to_on)
    title = f"Room {room_id}" + (f", {found.name}" if found.name else "")
    columns = ("night", "rooms", "held", "free", "rules")
    rows = [
        (shown(night.night), night.capacity, night.taken, night.free, ", ".join(_rules(night)))
        for night in found.nights
    ]
    print_found(as_json, found, print_table, title, columns, rows)


@inventory.command("set")
@_room
@_from
@_to
@click.option("--weekdays", type=weekdays, help="Only these: SAT,SUN.")
@click.option("--capacity", type=click.IntRange(min=0), help="The number of rooms.")
@click.option("--min-stay", type=click.IntRange(min=1), help="Nights, for arrivals on that day.")
@click.option("--closed/--open", default=None, help="Accept no new reservation.")
@click.option("--closed-to-arrival/--open-to-arrival", default=None)
@click.option("--closed-to-departure/--open-to-departure", default=None)
@click.option("--name", help="The room's name.")
@key_option
@with_client()
def set_(
    innbox: Innbox,
    room_id: int,
    from_on: date,
    to_on: date,
    key: str,
    as_json: bool,
    **change: object,
) -> None:
    """Open or change nights, all of them or none. Values that are left out stay as they are.

    \b
    innbox inventory set 7 --from 2027-01-01 --to 2027-02-01 --capacity 2
    innbox inventory set 7 --from 2027-01-01 --to 2027-02-01 --weekdays FRI,SAT --min-stay 2
    innbox inventory set 7 --from 2027-01-20 --to 2027-01-25 --closed
    """
    done = innbox.set_nights(room_id, from_on, to_on, key=key, **given(NightsChange, **change))
    print_found(as_json, done, print_status, f"Room {done.room_id}: {done.nights} nights set.")


def _row(one: Availability) -> tuple[object, ...]:
    return ("yes" if one.bookable else "no", one.minimum_free, _reasons(one.failing_nights))


def _reasons(failing: Sequence[FailingNight]) -> str:
    named = [f"{shown(night.night)} {night.reason}" for night in failing[:NIGHTS_NAMED_MAX]]
    more = len(failing) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _rules(night: Night) -> list[str]:
    rules = {
        "closed": night.closed,
        f"{night.min_stay} nights or more": night.min_stay > 1,
        "no arrival": night.closed_to_arrival,
        "no departure": night.closed_to_departure,
    }
    return [rule for rule, holds in rules.items() if holds]
