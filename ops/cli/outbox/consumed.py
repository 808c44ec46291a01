"""What `innbox outbox audit --consumed` adds: the audit knows no domain, so the command asks who does."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ops.progress import Report
from runtime.settings import Settings

if TYPE_CHECKING:
    from ops.audit import Window


def never_consumed(
    settings: Settings, window: "Window", topics: Collection[str], report: Report
) -> list[dict[str, Any]]:
    """Return the window's records that their consumer group is past without an effect."""
    from ops.verify.unconsumed import find_unconsumed

    return find_unconsumed(settings, report, since=window.since, until=window.until, topics=topics)


def passed_over(record: dict[str, Any]) -> str:
    """Say one of them in one line."""
    return (
        "{topic}: never consumed: message {message_id}, key {key}, partition {partition} "
        "offset {offset}: {found}".format(**record)
    )
