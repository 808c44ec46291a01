"""`innbox dead-letters`: show dead letters, and retry or discard them."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from innbox_process.commands import CommandError
from innbox_process.logs import configure_logs
from ops.cli.root import DATABASE, cli
from ops.environment import settings_for
from relay.cli.output import as_json, print_found, print_json, print_status
from runtime.settings import Context, Settings

_context = click.option(
    "--context",
    type=click.Choice(get_args(Context)),
    help="The context's database, where the contexts have one each.",
)
_ids = click.argument("ids", type=int, nargs=-1, required=True)


@cli.group("dead-letters")
def dead_letters() -> None:
    """Show messages that could not be applied, and retry or discard them.

    \b
    innbox dead-letters list
    innbox dead-letters show 12
    innbox dead-letters retry 12 13
    innbox dead-letters discard 12
    """


@dead_letters.command("list")
@_context
@as_json
@click.pass_obj
def list_letters(data: Path, context: Context | None, as_json: bool) -> None:
    """List the open dead letters, oldest first, 1,000 at most."""
    from consumers.dead_letters import open_letters

    found = []
    for url, contexts in settings_for(data, DATABASE).databases.items():
        if context is None or context in contexts:
            with create_engine(url, poolclass=NullPool).connect() as connection:
                found += [
                    {"database": " and ".join(contexts), **_shown(letter)}
                    for letter in open_letters(connection)
                ]
    columns = ("id", "database", "topic", "partition", "offset", "key", "created_at", "reason")
    rows = [[letter[column] for column in columns] for letter in found]
    print_found({"dead_letters": found}, "Open dead letters", columns, rows, as_json=as_json)


@dead_letters.command()
@click.argument("id_", metavar="ID", type=int)
@_context
@as_json
@click.pass_obj
def show(data: Path, id_: int, context: Context | None, as_json: bool) -> None:
    """Show a dead letter: its value, its headers and the decision."""
    from consumers.dead_letters import NoSuchDeadLetter, find

    engine, _ = _database(data, context)
    try:
        with engine.connect() as connection:
            letter = _shown(find(connection, id_))
    except NoSuchDeadLetter as error:
        raise CommandError(str(error)) from error
    print_found(letter, f"Dead letter {id_}", ("", ""), letter.items(), as_json=as_json)


@dead_letters.command()
@_ids
@_context
@as_json
@click.pass_obj
def retry(data: Path, ids: tuple[int, ...], context: Context | None, as_json: bool) -> int:
    """Apply messages again; one that fails stays open. Exit code 1 if any failed."""
    from consumers.handling import retry_dead_letter
    from consumers.process import retrying

    engine, settings = _database(data, context)
    with retrying(engine, settings) as handlers:
        retry_one = partial(retry_dead_letter, engine, handlers)
        # Any error that a message causes is its outcome.
        return _decide_each(ids, retry_one, Exception, "applied", as_json=as_json)


@dead_letters.command()
@_ids
@_context
@as_json
@click.pass_obj
def discard(data: Path, ids: tuple[int, ...], context: Context | None, as_json: bool) -> int:
    """Decide that messages are never applied. They are kept, marked as discarded."""
    from consumers.dead_letters import NoSuchDeadLetter
    from consumers.dead_letters import discard as discard_now

    engine, _ = _database(data, context)

    def discard_one(id_: int) -> None:
        with engine.begin() as connection:
            discard_now(connection, id_)

    return _decide_each(ids, discard_one, NoSuchDeadLetter, "discarded", as_json=as_json)


def _database(data: Path, context: Context | None) -> tuple[Engine, Settings]:
    settings = settings_for(data, DATABASE)
    if context is None and len(settings.databases) > 1:
        raise CommandError(
            "each context has a database of its own; add --context rooms or --context reservations"
        )
    configure_logs(settings.model_copy(update={"log_level": "ERROR"}), "dead-letters")
    url = settings.database_of(context or "reservations")
    return create_engine(url, poolclass=NullPool), settings


def _decide_each(
    ids: Iterable[int],
    decide: Callable[[int], object],
    expected: type[Exception],
    done: str,
    *,
    as_json: bool,
) -> int:
    """Decide each dead letter by itself, and print its outcome; returns 1 if one has an error."""
    outcomes = dict.fromkeys(ids, done)
    for id_ in ids:
        try:
            decide(id_)
        except expected as error:
            outcomes[id_] = f"{type(error).__name__}: {error}"
    if as_json:
        print_json({"dead_letters": outcomes})
    else:
        for id_, outcome in outcomes.items():
            print_status(f"{id_}: {outcome}")
    return int(any(outcome != done for outcome in outcomes.values()))


def _shown(letter: Any) -> dict[str, Any]:  # noqa: ANN401 - a DeadLetter, imported when needed
    shown = asdict(letter)
    record = shown.pop("record")
    texts = {"key": _text(record["key"]), "value": _text(record["value"])}
    return {"id": letter.id, "group": letter.group, **record, **texts, **shown}


def _text(content: bytes | None) -> str | None:
    """Return bytes as text, with escapes for bytes that are not UTF-8."""
    return None if content is None else content.decode("utf-8", "backslashreplace")
