"""`audit`: what was committed is published, once and in order, or it is named."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import click

from innbox_process.commands import Report
from relay.audit import Audit, Sources, TopicAudit, Window
from relay.audit import audit as audit_outboxes
from relay.cli import mend
from relay.cli.deployment import Where, on_database
from relay.cli.output import as_json, console, print_json, print_status, print_table, progress
from relay.cli.params import Instant

DOES_NOT_HOLD = 1
NAMED_MAX, NAMED_IN_JSON_MAX = 10, 1_000
_UNCOUNTED = ("topic", "unacknowledged", "found")
COLUMNS = [field.name for field in fields(TopicAudit) if field.name not in _UNCOUNTED]


@dataclass(frozen=True, slots=True)
class Also:
    """What another command line has an audit look for as well, and how it says what was found."""

    kind: str
    find: Callable[[Window, Collection[str], Report], list[dict[str, Any]]]
    line: Callable[[dict[str, Any]], str]


_WHAT = (
    click.option("--since", type=Instant(), help="2026-12-24T18:00:00Z, 2026-12-24, 2h or 7d."),
    click.option("--until", type=Instant(), help="Likewise; not included."),
    click.option("--topic", "topics", multiple=True, help="Without the prefix. May be repeated."),
    click.option("--exactly-once", is_flag=True, help="Repeated records are a failure as well."),
)


def audit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what is audited, and how strictly."""
    for option in reversed(_WHAT):
        command = option(command)
    return command


@click.command()
@audit_options
@click.option("--all", "name_all", is_flag=True, help="Name all that was found, not the first.")
@click.option("--mend", "mends", is_flag=True, help="Publish again what is missing; asks first.")
@click.option("--dry-run", is_flag=True, help="With --mend: say what it would publish, no more.")
@click.option("--yes", is_flag=True, help="With --mend: do not ask.")
@as_json
@on_database
def audit(
    where: Where,
    /,
    *,
    name_all: bool,
    mends: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    also: Also | None = None,
    **options: Any,  # noqa: ANN401 - those of an audit
) -> int:
    """Hold the outbox against the topics: what is missing, repeated or out of order, while all runs.

    Without --since everything that retention kept. Exit code 1 if a committed message is missing, or
    one overtook another that had to come first, unless `PROGRAM acknowledge` was told of it.

    --mend publishes again exactly what is missing, in the order of each key, with a header ce_mendid
    beside the others. It may be interrupted, and called again. With it, exit code 0 says that nothing
    is left to do.

    \b
    PROGRAM audit --since 2h
    PROGRAM audit --since 2026-12-24 --until 2026-12-25 --topic orders --json
    PROGRAM audit --mend --dry-run
    """
    if (dry_run or yes) and not mends:
        raise click.UsageError("--dry-run and --yes are for --mend")
    window = window_of(options.pop("since"), options.pop("until"))
    options["named_max"] = None if name_all else NAMED_IN_JSON_MAX if as_json else NAMED_MAX
    with ExitStack() as stack:
        places: mend.Places = {}
        if mends and not dry_run:
            places = stack.enter_context(mend.locked(where))
        with progress() as report:
            found = audited(where, window, report, **options)
            told, more = found.as_dict(), list[dict[str, Any]]()
            if also:
                more = also.find(window, options["topics"], report)
                told |= {also.kind: more, "holds": found.holds and not more}
        exit_code = 0 if told["holds"] else DOES_NOT_HOLD
        if not as_json:
            _print(told, [also.line(each) for each in more] if also else [], name_all=name_all)
        if mends:
            told["mend"], mended = mend.mend(places, found, yes=yes, as_json=as_json)
            exit_code = mended or int(bool(more))
    if as_json:
        print_json(told)
    return exit_code


def audited(where: Where, window: Window, report: Report, **options: Any) -> Audit:  # noqa: ANN401
    """Audit the outboxes of the chosen databases, and the topics of their cluster."""
    chosen = where.each()
    config = where.config(chosen[0])
    sources = Sources(
        tuple(chosen),
        config.kafka,
        config.topic_prefix,
        others=tuple(where.others()),
        database=config.database,
    )
    return audit_outboxes(sources, window, report, **options)


def window_of(since: datetime | timedelta | None, until: datetime | timedelta | None) -> Window:
    """Return the window that two options name."""
    now = datetime.now(UTC)
    since, until = (now - at if isinstance(at, timedelta) else at for at in (since, until))
    if since and until and since >= until:
        raise click.BadParameter("it is not after --since", param_hint="'--until'")
    return Window(since, until)


def _print(found: dict[str, Any], more: Sequence[str], *, name_all: bool) -> None:
    rows = [
        (topic["topic"], *(f"{_count(topic, column):,}" for column in COLUMNS))
        for topic in found["topics"]
    ]
    headings = [column.replace("_", " ") for column in COLUMNS]
    print_table("Outbox and topics", ("topic", *headings), rows)
    named = (_named(topic, name_all=name_all) for topic in found["topics"])
    for line in (*chain.from_iterable(named), *more):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for note in found["notes"]:
        print_status(note)
    print_status(_verdict(found, more))


def _verdict(found: dict[str, Any], more: Sequence[str]) -> str:
    if found["holds"]:
        if acknowledged := sum(_count(topic, "acknowledged") for topic in found["topics"]):
            return f"Nothing is wrong beside {acknowledged:,} acknowledged findings; see --all."
        return "Every committed message is where it should be."
    counted = Counter[str]()
    for topic in found["topics"]:
        counted.update(topic["unacknowledged"])
    kinds = ("missing", "out_of_order", "duplicated")
    failures = [f"{counted[kind]:,} {kind.replace('_', ' ')}" for kind in kinds if counted[kind]]
    if more:
        failures.append(f"{len(more):,} others")
    return f"FAILED: {', '.join(failures)}."


def _count(topic: dict[str, Any], column: str) -> int:
    count: int | dict[str, int] = topic[column]
    return sum(count.values()) if isinstance(count, dict) else count


def _named(topic: dict[str, Any], *, name_all: bool) -> Iterator[str]:
    for kind, entries in topic["found"].items():
        what, shown_now = f"{topic['topic']}: {kind.replace('_', ' ')}", entries
        if not name_all:
            shown_now = [entry for entry in entries if "acknowledged" not in entry]
        for entry in shown_now:
            yield f"{what}: {_said(entry)}"
        if acknowledged := not name_all and topic["acknowledged"].get(kind):
            yield f"{what}: {acknowledged:,} acknowledged; see --all"
        if unnamed := topic[kind] - len(shown_now) - (acknowledged or 0):
            yield f"{what}: and {unnamed:,} more; see --all"


def _said(entry: dict[str, Any]) -> str:
    """Return what is known of a message or record, in one line."""
    known = dict(entry)
    acknowledged = known.pop("acknowledged", None)
    places = [(place["partition"], place["offset"]) for place in known.pop("places", ())]
    if "offset" in known:
        places.append((known.pop("partition"), known.pop("offset")))
    words = [f"message {known.pop('message_id', None) or known.pop('event_id')}"]
    if "overtaken_id" in known:
        words.append(_overtaking(known))
    words += [f"{name} {value}" for name, value in known.items()]
    words += [f"partition {partition} offset {offset}" for partition, offset in places]
    if acknowledged:
        words.append("acknowledged by {by} at {at}: {reason}".format(**acknowledged))
    return ", ".join(words)


def _overtaking(known: dict[str, Any]) -> str:
    overtaken, position, offset = (
        known.pop(f"overtaken_{name}") for name in ("id", "position", "offset")
    )
    return (
        f"before message {overtaken} (position {position}, offset {offset}; {known.pop('reason')})"
    )
