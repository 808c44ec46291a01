"""What is said of replays."""

from collections.abc import Collection
from typing import Any

from innbox_process.commands import CommandError
from outbox.admin import Replay, ReplayState, Selection, Survey
from relay.cli.exits import INTERRUPTED as EXIT_INTERRUPTED
from relay.cli.output import print_json, print_status, print_table

NOT_ALL_MENDED = 1
IDS_NAMED_MAX = 10


def tell(replay: Replay, resume: str, *, as_json: bool) -> int:
    """Say how a replay stands; returns the exit code, or raises if a refusal ended it.

    A mend that could not publish everything is a failure: what is lost for good is named.
    """
    if as_json:
        print_json({"replay": shown(replay)})
    if replay.state == ReplayState.REFUSED:
        raise CommandError(
            f"{replay.reason}\nSent {replay.sent:,} of {replay.expected:,}. Mend the topic and go on "
            f"with `{resume} {replay.id}`, or pass over such messages with --skip-refused."
        )
    counts = f"{replay.sent:,} of {replay.expected:,} messages sent{_lost(replay)}"
    print_status(f"{named(replay)} is {replay.state}: {counts}{left_out(replay.left_out)}.")
    for message_id in replay.gone:
        print_status(
            f"No longer in the outbox, so it cannot be published again: message {message_id}"
        )
    if replay.state == ReplayState.INTERRUPTED:
        print_status(f"Go on with: {resume} {replay.id}")
        return EXIT_INTERRUPTED
    return NOT_ALL_MENDED if replay.is_mend and replay.sent < replay.expected else 0


def named(replay: Replay) -> str:
    """Return what a replay is called."""
    return f"{'Mend' if replay.is_mend else 'Replay'} {replay.id}"


def tell_survey(found: Survey, *, as_json: bool) -> int:
    """Say what would be published again."""
    first_at = found.extent and found.extent.first_at
    last_at = found.extent and found.extent.last_at
    if as_json:
        counts = {"expected": found.expected, "topics": found.topics, "left_out": found.left_out}
        print_json({"dry_run": counts | {"first_at": first_at, "last_at": last_at}})
        return 0
    rows = [(topic, f"{messages:,}") for topic, messages in found.topics.items()]
    print_table("To be published again", ("topic", "messages"), rows)
    if first_at and last_at:
        print_status(f"Appended from {first_at.isoformat()} to {last_at.isoformat()}.")
    print_status(f"{found.expected:,} messages{left_out(found.left_out)}; nothing was published.")
    return 0


def shown(replay: Replay) -> dict[str, Any]:
    """Return a replay for JSON."""
    names = [name for name in Replay.__slots__ if name not in ("extent", "position")]
    selection = replay.extent.selection
    conditions = {name: getattr(selection, name) for name in Selection.__slots__}
    return {
        **{name: getattr(replay, name) for name in names},
        "is_mend": replay.is_mend,
        "conditions": {name: value for name, value in conditions.items() if value},
    }


def conditions_of(replay: Replay) -> str:
    """Return the conditions as a person gave them; of many ids, how many."""
    selection = replay.extent.selection
    if replay.is_mend:
        return f"{replay.expected:,} messages that were missing"
    times = {"since": selection.since, "until": selection.until}
    given = [f"{name} {at:%Y-%m-%d %H:%M:%S %Z}" for name, at in times.items() if at]
    ids: Collection[object] = selection.message_ids
    if len(ids) > IDS_NAMED_MAX:
        ids = [f"one of {len(ids):,}"]
    lists = {"topic": selection.topics, "key": selection.keys, "id": ids}
    return ", ".join([*given, *(f"{name} {each}" for name, all_ in lists.items() for each in all_)])


def left_out(messages: int) -> str:
    """Say that some are no part of it, if any are not."""
    return f"; {messages:,} left out, not published yet or skipped" if messages else ""


def _lost(replay: Replay) -> str:
    refused = f", {replay.refused:,} refused" if replay.refused else ""
    gone = replay.expected - replay.done
    if replay.state != ReplayState.DONE or not gone:
        return refused
    return f"{refused}, {gone:,} gone with the retention"
