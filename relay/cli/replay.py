"""`replay` and `replays`: publishing again what the outbox still has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import click
from sqlalchemy import Connection

import outbox
from innbox_process.commands import CommandError
from innbox_process.shutdown import stop_on_signals
from outbox import admin, reader
from outbox.admin import Replay, ReplayState, Selection, Survey, survey
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, print_found, print_status, progress
from relay.cli.params import Instant, ids_from, person
from relay.cli.replay_output import (
    conditions_of,
    left_out,
    named,
    shown,
    tell,
    tell_survey,
)
from relay.commands.replay import run_replay
from relay.config import RelayConfig
from relay.databases import Database

PER_SECOND = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """A database's outbox, as a replay needs it."""

    connection: Connection
    config: RelayConfig
    resume: str  # what a person types to go on, but for the id


@click.command()
@click.option("--since", type=Instant(), help="Appended at this time or later: ISO 8601, or 2h.")
@click.option("--until", type=Instant(), help="Appended before this time.")
@click.option("--topic", "topics", multiple=True, help="Of this topic. May be repeated.")
@click.option("--key", "keys", multiple=True, help="Of this key. May be repeated.")
@click.option("--id", "message_ids", type=click.UUID, multiple=True, help="This one; `ce_id`.")
@ids_from
@click.option("--to-topic", help="Another topic than the messages' own.")
@click.option(
    "--per-second",
    type=click.IntRange(min=0),
    help=f"At most so many messages a second; 0 is as fast as it goes.  [default: {PER_SECOND:,}]",
)
@click.option("--dry-run", is_flag=True, help="Say how many there are; publish nothing.")
@click.option("--skip-refused", is_flag=True, help="Pass over what the brokers refuse.")
@click.option("--resume", type=int, metavar="ID", help="Go on with a replay that was interrupted.")
@click.option("--cancel", type=int, metavar="ID", help="Give a replay up, also one that runs.")
@as_json
@on_database
def replay(  # noqa: PLR0913 - one for each option
    where: Where,
    /,
    *,
    to_topic: str | None,
    per_second: int | None,
    dry_run: bool,
    skip_refused: bool,
    resume: int | None,
    cancel: int | None,
    as_json: bool,
    ids_from: tuple[UUID, ...],
    **conditions: Any,  # noqa: ANN401 - those of a Selection
) -> int:
    """Publish messages again that the outbox still has; its retention is how far back that is.

    All conditions that are given must hold; at least one must be given. A message goes out as it was,
    under its old ce_id, with a header ce_replayid beside; those of a key in their order. What has not
    been published for the first time is left out. A replay publishes at least once, whatever
    RELAY_MODE is: consumers must expect repetitions, from it and because of it.

    \b
    PROGRAM replay --topic orders --since 2h --dry-run
    PROGRAM replay --key 7 --since 2026-12-24T08:00Z --until 2026-12-24T09:00Z
    PROGRAM replay --id 0f8fad5b-d9cb-469f-a165-70867728950e --to-topic orders-copy
    PROGRAM replay --ids-from lost.txt
    PROGRAM replay --resume 12 --per-second 5000
    """
    conditions["message_ids"] += ids_from
    is_new = any(conditions.values())
    if is_new + (resume is not None) + (cancel is not None) != 1:
        raise click.UsageError(
            "give conditions (--since, --until, --topic, --key, --id, --ids-from), or --resume, or "
            "--cancel"
        )
    if not is_new and (dry_run or to_topic is not None):
        raise click.UsageError("--dry-run and --to-topic are for a new replay")
    with session(where, where.one(), asks_kafka=not dry_run and cancel is None) as place:
        if cancel is not None:
            return tell(
                admin.stop_replay(place.connection, cancel, ReplayState.CANCELLED),
                "",
                as_json=as_json,
            )
        if resume is not None:
            ours = admin.take_replay(place.connection, resume, per_second=per_second)
        else:
            found = _survey(place, conditions, to_topic)
            if dry_run:
                return tell_survey(found, as_json=as_json)
            ours = _create(place, found, to_topic, per_second)
        ours = run_shown(place, ours, skip_refused=skip_refused)
        return tell(ours, place.resume, as_json=as_json)


@click.command()
@as_json
@on_database
def replays(where: Where, *, as_json: bool) -> None:
    """List the replays of each database, the newest 100 first."""
    found = where.of_each(admin.replays)
    counts = ("sent", "expected", "left_out")
    columns = ("id", "state", *counts, "to_topic", "started_by", "updated_at")
    rows = [
        (of, *(getattr(replay, name) for name in columns), conditions_of(replay), replay.reason)
        for of, replay in found
    ]
    content = {"replays": [{"database": of, **shown(replay)} for of, replay in found]}
    headings = ("database", *columns, "of", "reason")
    print_found(content, "Replays", headings, rows, as_json=as_json)


@contextmanager
def session(where: Where, database: Database, *, asks_kafka: bool = True) -> Iterator[Place]:
    """Connect to an outbox as a replay does; what the outbox refuses is a `CommandError`."""
    with (
        where.session(database, "replay", asks_kafka=asks_kafka) as (engine, config),
        engine.connect() as connection,
    ):
        reader.prepare_session(connection)
        try:
            yield Place(connection, config, f"{where.typed('replay', database)} --resume")
        except outbox.OutboxError as error:
            raise CommandError(str(error)) from error


def _survey(place: Place, conditions: dict[str, Any], to_topic: str | None) -> Survey:
    """Count; before that see whether there is such a target, and after it whether all fits in."""
    if to_topic is not None:
        admin.check_target(place.connection, to_topic)
    now = admin.database_now(place.connection)
    for name in ("since", "until"):
        if isinstance(ago := conditions[name], timedelta):
            conditions[name] = now - ago
    with progress() as report:
        found = survey(
            place.connection,
            Selection(**conditions),
            lambda done, total: report("counting", done, total),
        )
    if to_topic is not None:
        admin.check_target(place.connection, to_topic, found)
    return found


def _create(place: Place, found: Survey, to_topic: str | None, per_second: int | None) -> Replay:
    if not found.extent:
        raise CommandError(f"no published message is like this{left_out(found.left_out)}")
    return admin.create_replay(
        place.connection,
        found,
        to_topic=to_topic,
        per_second=PER_SECOND if per_second is None else per_second,
        started_by=person(),
    )


def run_shown(place: Place, replay: Replay, *, skip_refused: bool) -> Replay:
    """Publish what is left of a replay, and show how far it is."""
    with progress() as report, stop_on_signals(place.config.shutdown_s) as stop:
        rate = f"at most {replay.per_second:,} a second" if replay.per_second else "unlimited"
        print_status(f"{named(replay)}: {replay.expected - replay.done:,} messages, {rate}.")
        print_status(f"Should it end early, go on with: {place.resume} {replay.id}")

        def show(replay: Replay) -> None:
            report("mending" if replay.is_mend else "replaying", replay.done, replay.expected)

        show(replay)
        return run_replay(
            place.connection, replay, place.config, stop, show, skip_refused=skip_refused
        )
