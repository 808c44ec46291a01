"""`innbox outbox replay | replays`: publishing again what the outbox still has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import click
from sqlalchemy import Connection

import outbox
from innbox_process.config import FOR_A_PERSON
from innbox_process.database import direct_engine
from innbox_process.logs import configure_logs
from innbox_process.shutdown import stop_on_signals
from ops.cli.deploy import DATABASE
from ops.cli.ids import ids_from
from ops.cli.instants import Instant
from ops.cli.outbox.group import outbox_group
from ops.cli.outbox.replay_output import (
    conditions_of,
    left_out,
    named,
    shown,
    tell,
    tell_survey,
)
from ops.cli.output import as_json, print_json, print_table, progress, say
from ops.cli.person import person
from ops.environment import settings_for
from ops.errors import CommandError
from ops.relay_config import relay_config
from outbox import admin, reader
from outbox.admin import Replay, ReplayState, Selection, Survey, survey
from relay.config import RelayConfig
from runtime.settings import Context, Settings

PER_SECOND = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """A database's outbox, as a replay needs it."""

    connection: Connection
    config: RelayConfig
    resume: str  # what a person types to go on, but for the id


_context = click.option(
    "--context",
    type=click.Choice(get_args(Context)),
    help="Whose outbox, where the two contexts have a database each.",
)


@outbox_group.command()
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
@_context
@as_json
@click.pass_obj
def replay(  # noqa: PLR0913 - one for each option
    data: Path,
    /,
    *,
    context: Context | None,
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
    innbox outbox replay --topic room-reserve --since 2h --dry-run
    innbox outbox replay --key 7 --since 2026-12-24T08:00Z --until 2026-12-24T09:00Z
    innbox outbox replay --id 0f8fad5b-d9cb-469f-a165-70867728950e --to-topic room-reserve-copy
    innbox outbox replay --ids-from lost.txt
    innbox outbox replay --resume 12 --per-second 5000
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
    with _place(data, context, asks_kafka=not dry_run and cancel is None) as place:
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


@outbox_group.command()
@as_json
@click.pass_obj
def replays(data: Path, as_json: bool) -> None:
    """List the replays of each database, the newest 100 first."""
    settings = settings_for(data, DATABASE)
    found: list[tuple[str, Replay]] = []
    for url, contexts in settings.databases.items():
        with direct_engine(settings, url, "replays").connect() as connection:
            database = " and ".join(contexts)
            found += [(database, replay) for replay in admin.replays(connection)]
    if as_json:
        print_json({"replays": [{"database": of, **shown(replay)} for of, replay in found]})
        return
    columns = (
        "id",
        "state",
        "sent",
        "expected",
        "left_out",
        "to_topic",
        "started_by",
        "updated_at",
    )
    print_table(
        "Replays",
        ("database", *columns, "of", "reason"),
        [
            (
                of,
                *(shown(replay)[column] for column in columns),
                conditions_of(replay),
                replay.reason,
            )
            for of, replay in found
        ],
    )


@contextmanager
def _place(data: Path, context: Context | None, *, asks_kafka: bool) -> Iterator[Place]:
    settings = settings_for(
        data, (*DATABASE, "kafka_bootstrap_servers") if asks_kafka else DATABASE
    )
    if context is None and len(settings.databases) > 1:
        raise CommandError("the contexts have a database each: say --context rooms or reservations")
    with session(settings, context) as place:
        yield place


@contextmanager
def session(settings: Settings, context: Context | None) -> Iterator[Place]:
    """Connect to an outbox as a replay does; what the outbox refuses is a `CommandError`."""
    configure_logs(FOR_A_PERSON, "replay")
    resume = f"innbox outbox replay{f' --context {context}' if context else ''} --resume"
    engine = direct_engine(settings, settings.database_of(context or "reservations"), "replay")
    with engine.connect() as connection:
        reader.prepare_session(connection)
        try:
            yield Place(connection, relay_config(settings, context), resume)
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
    from relay.replay import run_replay

    with progress() as report, stop_on_signals(place.config.shutdown_s) as stop:
        rate = f"at most {replay.per_second:,} a second" if replay.per_second else "unlimited"
        say(f"{named(replay)}: {replay.expected - replay.done:,} messages, {rate}.")
        say(f"Should it end early, go on with: {place.resume} {replay.id}")

        def show(replay: Replay) -> None:
            report("mending" if replay.is_mend else "replaying", replay.done, replay.expected)

        show(replay)
        return run_replay(
            place.connection, replay, place.config, stop, show, skip_refused=skip_refused
        )
