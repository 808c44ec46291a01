"""`blocked`: keys that a refused message holds up, shown and decided."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click
from sqlalchemy import Connection

from outbox import admin, reader
from outbox.admin import KeyNotBlocked, count_waiting, skipped_messages
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, confirm, print_found, print_json, print_status, yes
from relay.cli.params import person

NOT_BLOCKED = 1
_RETRIED = "is tried again"


@click.group("blocked", invoke_without_command=True)
@click.pass_context
def blocked_group(context: click.Context) -> None:
    """Look at keys whose message the brokers refuse, and decide about them. Alone: list them.

    \b
    PROGRAM blocked
    PROGRAM blocked retry 7
    PROGRAM blocked retry --all
    PROGRAM blocked skip 7 --note "a test"
    PROGRAM blocked skipped
    """
    if context.invoked_subcommand is None:
        context.invoke(list_blocked)


@blocked_group.command("list")
@as_json
@on_database
def list_blocked(where: Where, *, as_json: bool) -> None:
    """List the blocked keys, the longest blocked first, and how many messages wait behind."""
    # Patient: a piece of the log is looked at for each key, and there may be many.
    found = [{"database": of, **each} for of, each in where.of_each(_blocked, is_patient=True)]
    columns = ("database", "key", "state", "topic", "message_id", "attempts", "blocked_at")
    rows = [
        (
            *(each[column] for column in columns),
            f"{each['waiting']:,}{' or more' if each['may_be_more'] else ''}",
            each["reason"],
        )
        for each in found
    ]
    headings = (*columns, "waiting", "reason")
    print_found({"blocked_keys": found}, "Blocked keys", headings, rows, as_json=as_json)


@blocked_group.command()
@click.argument("keys", metavar="[KEY…]", nargs=-1)
@click.option(
    "--all", "is_all", is_flag=True, help="Every blocked key, after their number was shown."
)
@yes
@as_json
@on_database
def retry(where: Where, *, keys: tuple[str, ...], is_all: bool, yes: bool, as_json: bool) -> int:
    """Have the relay publish the refused message after all, and then what waits behind it.

    What is refused again blocks the key again. Exit code 1 if a key that was named is not blocked.
    """
    if is_all == bool(keys):
        raise click.UsageError("name the keys, or pass --all")
    if not is_all:
        return _decide(where, keys, admin.retry_key, _RETRIED, as_json=as_json)
    with where.engine(where.one()) as engine:
        with engine.connect() as connection:
            blocked = [key.key for key in reader.blocked_keys(connection) if key.state == "BLOCKED"]
        if blocked:
            confirm(f"Blocked keys: {len(blocked):,}. Publish what was refused again?", yes=yes)
        with engine.begin() as connection:
            retried = admin.retry_all_keys(connection)
    _tell(dict.fromkeys(retried, _RETRIED), as_json=as_json)
    return 0


@blocked_group.command()
@click.argument("keys", metavar="KEY…", nargs=-1, required=True)
@click.option("--note", default="", help="Why; it is kept with the message.")
@yes
@as_json
@on_database
def skip(where: Where, *, keys: tuple[str, ...], note: str, yes: bool, as_json: bool) -> int:
    """Never publish the refused message; what waits behind it is published.

    The message is kept whole, with who skipped it, when and why; see `skipped`. Exit code 1 if a key is
    not blocked.
    """
    confirm(f"Never publish the refused message of {', '.join(keys)}?", yes=yes)

    def skip_one(connection: Connection, key: str) -> None:
        admin.skip_message(connection, key, skipped_by=person(), note=note)

    return _decide(where, keys, skip_one, "message skipped", as_json=as_json)


@blocked_group.command()
@as_json
@on_database
def skipped(where: Where, *, as_json: bool) -> None:
    """List the messages that were skipped, the newest 1,000 first; whole with --json."""
    found = [
        # Bytes as text, with escapes where they are none.
        asdict(each) | {"database": of, "value": each.value.decode("utf-8", "backslashreplace")}
        for of, each in where.of_each(skipped_messages)
    ]
    message = ("database", "message_id", "topic", "key")
    columns = (*message, "reason", "skipped_at", "skipped_by", "note")
    rows = [[each[column] for column in columns] for each in found]
    print_found({"skipped": found}, "Skipped messages", columns, rows, as_json=as_json)


def _blocked(connection: Connection) -> Iterator[dict[str, Any]]:
    waiting = count_waiting(connection)
    for found in reader.blocked_keys(connection):
        shown = asdict(found)
        del shown["cursor"]
        # A key that was blocked between the two looks has nothing counted yet.
        shown["waiting"], shown["may_be_more"] = waiting.get(found.key, (0, True))
        yield shown


def _decide(
    where: Where,
    keys: tuple[str, ...],
    decide: Callable[[Connection, str], None],
    decided: str,
    *,
    as_json: bool,
) -> int:
    """Decide about each key in a transaction of its own, and tell what came of it."""
    outcome, exit_code = {}, 0
    with where.engine(where.one()) as engine:
        for key in dict.fromkeys(keys):
            try:
                with engine.begin() as connection:
                    decide(connection, key)
                outcome[key] = decided
            except KeyNotBlocked as error:
                outcome[key], exit_code = str(error), NOT_BLOCKED
    _tell(outcome, as_json=as_json)
    return exit_code


def _tell(outcome: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"blocked_keys": outcome})
        return
    for key, what in outcome.items():
        print_status(f"{key}: {what}")
    if not outcome:
        print_status("No key is blocked.")
