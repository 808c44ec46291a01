"""`audit --mend`: what the audit has found missing is published again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from outbox import admin
from outbox.admin import MISSING, LostMessage, Replay, lock_mends
from relay.audit import Audit
from relay.cli.deployment import Where
from relay.cli.output import confirm, print_table
from relay.cli.params import person
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
            place = stack.enter_context(session(where, database))
            lock_mends(place.connection)
            places[database.name] = place
        yield places


def mend(places: Places, found: Audit, *, yes: bool, as_json: bool) -> tuple[dict[str, Any], int]:
    """Show what would be published again, ask, and publish it; without places it is a dry run.

    Returns what a program is told, and the exit code: 0 if nothing of what was found is left to do.
    """
    lost, runs = _lost(found), list[Replay]()
    planned = list(_plan(lost))
    if not as_json:
        _tell_plan(planned)
    if not planned or not places:
        exit_code = int(not found.holds)
    else:
        messages = sum(map(len, lost.values()))
        question = f"Publish {messages:,} messages again?"
        confirm(question, yes=yes, otherwise=", or --dry-run to publish nothing")
        others = [finding for finding in found.findings if finding.kind != MISSING]
        exit_code = _publish(places, lost, runs) or int(
            not all(finding.is_acknowledged for finding in others)
        )
    return {"to_be_published": planned, "runs": [shown(run) for run in runs]}, exit_code


def _lost(found: Audit) -> dict[str, list[LostMessage]]:
    """Return what is missing of each database."""
    lost: dict[str, list[LostMessage]] = defaultdict(list)
    for database, kind, topic, message_id, position, created_at, _ in found.findings:
        if kind == MISSING:
            assert created_at is not None, "of what is missing it is known"
            began_at = datetime.fromtimestamp(created_at, UTC)
            lost[database].append(LostMessage(position, UUID(message_id), topic, began_at))
    return lost


def _plan(lost: Mapping[str, Sequence[LostMessage]]) -> Iterator[dict[str, Any]]:
    """Say, of each topic, how many messages, and which are the first and the last of them."""
    for database, messages in sorted(lost.items()):
        for topic in sorted({message.topic for message in messages}):
            ours = [message for message in messages if message.topic == topic]
            ends = {"first": _end(ours[0]), "last": _end(ours[-1])}
            yield {"database": database, "topic": topic, "messages": len(ours), **ends}


def _end(message: LostMessage) -> dict[str, Any]:
    return {
        "message_id": str(message.message_id),
        "position": message.position,
        "created_at": message.created_at.isoformat(timespec="seconds"),
    }


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


def _publish(places: Places, lost: Mapping[str, Sequence[LostMessage]], runs: list[Replay]) -> int:
    """Publish what is missing, one database after the other, and add the runs to a list.

    A run that ends early ends all: what is not begun then is found by the next audit.
    """
    for database, place in places.items():
        if database in lost:
            begun = admin.begin_mend(
                place.connection, lost[database], per_second=PER_SECOND, started_by=person()
            )
            runs.append(run_shown(place, begun, skip_refused=False))
            if exit_code := tell(runs[-1], place.resume, as_json=False):
                return exit_code
    return 0
