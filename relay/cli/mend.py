"""`audit --mend`: what the audit has found missing is published again."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from outbox import admin
from outbox.admin import MISSING, LostMessage, Replay, lock_mends
from relay.audit import Audit, Finding
from relay.cli.deployment import Where
from relay.cli.output import confirm, print_table
from relay.cli.person import person
from relay.cli.replay import PER_SECOND, Place, run_shown, session
from relay.cli.replay_output import shown, tell

# By the name that an audit gives a database.
Places = dict[str, Place]


@contextmanager
def locked(where: Where) -> Iterator[Places]:
    """Be the one who mends these outboxes, from before the audit until the end of the block."""
    with ExitStack() as stack:
        places: Places = {}
        for database in where.each():
            place = stack.enter_context(session(where.only(database), database))
            lock_mends(place.connection)
            places[database.name] = place
        yield places


def mend(places: Places, found: Audit, *, yes: bool, as_json: bool) -> tuple[dict[str, Any], int]:
    """Show what would be published again, ask, and publish it; without places it is a dry run.

    Returns what a program is told, and the exit code: 0 if nothing of what was found is left to do.
    """
    planned, runs = _plan(found), list[Replay]()
    if not as_json:
        _tell_plan(planned)
    if not planned or not places:
        exit_code = int(not found.holds)
    else:
        messages = sum(each["messages"] for each in planned)
        question = f"Publish {messages:,} messages again?"
        confirm(question, yes=yes, otherwise=", or --dry-run to publish nothing")
        exit_code = _publish(places, found, runs) or _rest(found)
    return {"to_be_published": planned, "runs": [shown(run) for run in runs]}, exit_code


def _plan(found: Audit) -> list[dict[str, Any]]:
    """Say, of each topic, how many messages, and which are the first and the last of them."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in _missing(found):
        groups[finding.database, finding.topic].append(finding)
    return [
        {
            "database": database,
            "topic": topic,
            "messages": len(lost),
            "first": _end(lost[0]),
            "last": _end(lost[-1]),
        }
        for (database, topic), lost in sorted(groups.items())
    ]


def _tell_plan(planned: list[dict[str, Any]]) -> None:
    end = "{created_at}, position {position}, {message_id}"
    rows = [
        (
            each["database"],
            each["topic"],
            f"{each['messages']:,}",
            end.format(**each["first"]),
            end.format(**each["last"]),
        )
        for each in planned
    ]
    columns = ("database", "topic", "messages", "first", "last")
    print_table("To be published again", columns, rows)


def _publish(places: Places, found: Audit, runs: list[Replay]) -> int:
    """Publish what is missing, one database after the other, and add the runs to a list.

    A run that ends early ends all: what is not begun then is found by the next audit.
    """
    for database, place in places.items():
        if lost := [_lost(finding) for finding in _missing(found) if finding.database == database]:
            begun = admin.begin_mend(
                place.connection, lost, per_second=PER_SECOND, started_by=person()
            )
            runs.append(run_shown(place, begun, skip_refused=False))
            if exit_code := tell(runs[-1], place.resume, as_json=False):
                return exit_code
    return 0


def _rest(found: Audit) -> int:
    """Return the exit code of what an audit has found beside what is missing."""
    others = (finding for finding in found.findings if finding.kind != MISSING)
    return int(not all(finding.is_acknowledged for finding in others))


def _missing(found: Audit) -> Iterator[Finding]:
    return (finding for finding in found.findings if finding.kind == MISSING)


def _created_at(finding: Finding) -> datetime:
    assert finding.created_at is not None, "of what is missing it is known"
    return datetime.fromtimestamp(finding.created_at, UTC)


def _lost(finding: Finding) -> LostMessage:
    message_id, created_at = UUID(finding.message_id), _created_at(finding)
    return LostMessage(finding.position, message_id, finding.topic, created_at)


def _end(finding: Finding) -> dict[str, Any]:
    return {
        "message_id": finding.message_id,
        "position": finding.position,
        "created_at": _created_at(finding).isoformat(timespec="seconds"),
    }
