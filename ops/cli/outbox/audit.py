"""`innbox outbox audit`: what was committed is published, once and in order, or it is named."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from ops.cli.instants import Instant
from ops.cli.outbox import outbox_group
from ops.cli.output import as_json, console, print_json, print_table, progress, say
from ops.environment import settings_for
from runtime.settings import Context

DOES_NOT_HOLD = 1
NAMED_MAX, NAMED_IN_JSON_MAX = 10, 1_000
COLUMNS = (
    "committed",
    "published",
    "missing",
    "duplicated",
    "out_of_order",
    "unknown",
    "undecided",
    "waiting",
    "blocked",
    "skipped",
    "expired",
    "untraceable",
)


@outbox_group.command()
@click.option("--since", type=Instant(), help="2026-12-24T18:00:00Z, 2026-12-24, 2h or 7d.")
@click.option("--until", type=Instant(), help="Likewise; not included.")
@click.option("--topic", "topics", multiple=True, help="Without the prefix. May be repeated.")
@click.option("--context", type=click.Choice(get_args(Context)), help="Whose database alone.")
@click.option("--exactly-once", is_flag=True, help="Repeated records are a failure as well.")
@click.option("--all", "name_all", is_flag=True, help="Name all that was found, not the first.")
@as_json
@click.pass_obj
def audit(
    data: Path,
    since: datetime | timedelta | None,
    until: datetime | timedelta | None,
    topics: tuple[str, ...],
    context: Context | None,
    exactly_once: bool,
    name_all: bool,
    as_json: bool,
) -> int:
    """Hold the outbox against the topics: what is missing, repeated or out of order, while all runs.

    Without --since everything that retention kept. Exit code 1 if a committed message is missing, or
    one overtook another that had to come first.

    \b
    innbox outbox audit --since 2h
    innbox outbox audit --since 2026-12-24 --until 2026-12-25 --topic room-reserve --json
    """
    from ops.audit import Window
    from ops.audit import audit as audit_now

    now = datetime.now(UTC)
    window = Window(_at(since, now, "--since"), _at(until, now, "--until"))
    if window.since and window.until and window.since >= window.until:
        raise click.BadParameter("it is not after --since", param_hint="'--until'")

    named_max = None if name_all else NAMED_IN_JSON_MAX if as_json else NAMED_MAX
    with progress() as report:
        found = audit_now(
            settings_for(data),
            window,
            report,
            topics=topics,
            context=context,
            exactly_once=exactly_once,
            named_max=named_max,
        )
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found.as_dict())
    return 0 if found.holds else DOES_NOT_HOLD


def _at(given: datetime | timedelta | None, now: datetime, option: str) -> datetime | None:
    if not isinstance(given, timedelta):
        return given
    try:
        return now - given
    except OverflowError as error:
        raise click.BadParameter("there were no years then", param_hint=f"'{option}'") from error


def _print(found: dict[str, Any]) -> None:
    headings = [column.replace("_", " ") for column in COLUMNS]
    print_table(
        "Outbox and topics",
        ("topic", *headings),
        [
            (topic["topic"], *(f"{topic[column]:,}" for column in COLUMNS))
            for topic in found["topics"]
        ],
    )
    for topic in found["topics"]:
        for line in _named(topic):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for note in found["notes"]:
        say(note)
    say("Every committed message is where it should be." if found["holds"] else "It does not hold.")


def _named(topic: dict[str, Any]) -> Iterator[str]:
    for kind, entries in topic["found"].items():
        for entry in entries:
            yield f"{topic['topic']}: {kind.replace('_', ' ')}: {_said(entry)}"
        if unnamed := topic[kind] - len(entries):
            yield f"{topic['topic']}: {kind.replace('_', ' ')}: and {unnamed:,} more; see --all"


def _said(entry: dict[str, Any]) -> str:
    """Return what is known of a message or record, in one line."""
    known = dict(entry)
    places = [(place["partition"], place["offset"]) for place in known.pop("places", ())]
    if "offset" in known:
        places.append((known.pop("partition"), known.pop("offset")))
    words = [f"message {known.pop('message_id', None) or known.pop('event_id')}"]
    if "overtaken_id" in known:
        words.append(_overtaking(known))
    words += [f"{name} {value}" for name, value in known.items()]
    words += [f"partition {partition} offset {offset}" for partition, offset in places]
    return ", ".join(words)


def _overtaking(known: dict[str, Any]) -> str:
    overtaken, position, offset = (
        known.pop(f"overtaken_{name}") for name in ("id", "position", "offset")
    )
    return (
        f"before message {overtaken} (position {position}, offset {offset}; {known.pop('reason')})"
    )
