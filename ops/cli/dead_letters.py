"""`innbox dead-letters`: what was set aside, shown and decided."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from innbox_process.commands import CommandError
from innbox_process.logs import configure_logs
from ops.cli.deploy import DATABASE
from ops.cli.root import cli
from ops.environment import settings_for
from relay.cli.output import as_json, print_json, print_status, print_table
from runtime.settings import Context, Settings

_context = click.option(
    "--context",
    type=click.Choice(get_args(Context)),
    help="Whose database, where the two contexts have one each.",
)
_ids = click.argument("ids", type=int, nargs=-1, required=True)


@cli.group("dead-letters")
def dead_letters_group() -> None:
    """Look at messages that could not be applied, and decide about them.

    \b
    innbox dead-letters list
    innbox dead-letters show 12
    innbox dead-letters retry 12 13
    innbox dead-letters discard 12
    """


@dead_letters_group.command("list")
@_context
@as_json
@click.pass_obj
def list_letters(data: Path, context: Context | None, as_json: bool) -> None:
    """List the open ones, the oldest 1,000 first."""
    from consumers import dead_letters

    settings = settings_for(data, DATABASE)
    found = []
    for url, contexts in settings.databases.items():
        if context is None or context in contexts:
            with _engine(url) as engine, engine.connect() as connection:
                found += [
                    {"database": " and ".join(contexts), **_shown(letter)}
                    for letter in dead_letters.open_letters(connection)
                ]
    if as_json:
        print_json({"dead_letters": found})
        return
    columns = ("id", "database", "topic", "partition", "offset", "key", "created_at", "reason")
    rows = [[letter[column] for column in columns] for letter in found]
    print_table("Open dead letters", columns, rows)


@dead_letters_group.command()
@click.argument("id_", metavar="ID", type=int)
@_context
@as_json
@click.pass_obj
def show(data: Path, id_: int, context: Context | None, as_json: bool) -> None:
    """Show one whole: its value, headers, and what was decided."""
    from consumers import dead_letters

    with _database(data, context) as (engine, _), engine.connect() as connection, _known():
        letter = _shown(dead_letters.find(connection, id_))
    if as_json:
        print_json(letter)
        return
    print_table(f"Dead letter {id_}", ("", ""), letter.items())


@dead_letters_group.command()
@_ids
@_context
@as_json
@click.pass_obj
def retry(data: Path, ids: tuple[int, ...], context: Context | None, as_json: bool) -> int:
    """Apply messages after all; one that fails again stays open. Exit code 1 if any did."""
    from consumers.handling import retry_dead_letter
    from consumers.process import retrying

    outcome: dict[int, str] = {}
    with _database(data, context) as (engine, settings), retrying(engine, settings) as handlers:
        for id_ in ids:
            try:
                retry_dead_letter(engine, handlers, id_)
            except Exception as error:  # noqa: BLE001 - whatever it causes is what the person asked
                outcome[id_] = f"{type(error).__name__}: {error}"
            else:
                outcome[id_] = "applied"
    return _told(outcome, as_json=as_json)


@dead_letters_group.command()
@_ids
@_context
@as_json
@click.pass_obj
def discard(data: Path, ids: tuple[int, ...], context: Context | None, as_json: bool) -> int:
    """Decide that messages are never to be applied. They are kept, marked so."""
    from consumers import dead_letters

    outcome: dict[int, str] = {}
    with _database(data, context) as (engine, _):
        for id_ in ids:
            try:
                with engine.begin() as connection:
                    dead_letters.discard(connection, id_)
            except dead_letters.NoSuchDeadLetter as error:
                outcome[id_] = f"{type(error).__name__}: {error}"
            else:
                outcome[id_] = "discarded"
    return _told(outcome, as_json=as_json)


@contextmanager
def _database(data: Path, context: Context | None) -> Iterator[tuple[Engine, Settings]]:
    settings = settings_for(data, DATABASE)
    if context is None and len(settings.databases) > 1:
        raise CommandError("the contexts have a database each: say --context rooms or reservations")
    configure_logs(settings.model_copy(update={"log_level": "ERROR"}), "dead-letters")
    with _engine(settings.database_of(context or "reservations")) as engine:
        yield engine, settings


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url, poolclass=NullPool)
    yield engine
    engine.dispose()


@contextmanager
def _known() -> Iterator[None]:
    from consumers.dead_letters import NoSuchDeadLetter

    try:
        yield
    except NoSuchDeadLetter as error:
        raise CommandError(str(error)) from error


def _told(outcome: dict[int, str], *, as_json: bool) -> int:
    if as_json:
        print_json({"dead_letters": outcome})
    else:
        for id_, what in outcome.items():
            print_status(f"{id_}: {what}")
    return int(any(what not in {"applied", "discarded"} for what in outcome.values()))


def _shown(letter: Any) -> dict[str, Any]:  # noqa: ANN401 - a DeadLetter, imported when needed
    record = letter.record
    return {
        "id": letter.id,
        "group": letter.group,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": record.headers,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "state": letter.state,
        "created_at": letter.created_at,
        "decided_at": letter.decided_at,
    }


def _text(content: bytes | None) -> str | None:
    """Show bytes as text, with escapes where they are none."""
    return None if content is None else content.decode("utf-8", "backslashreplace")
