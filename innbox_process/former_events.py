"""The former texts of log events that were renamed: kept for one release beside the new ones.

An alert that looks for a former text in a log line, or for it in `former_event`, goes on working.
"""

from structlog.typing import EventDict

# To be emptied by the release after the one that renamed them; CHANGELOG.md lists them, too.
FORMER_EVENTS = {
    "relay cannot make progress; retrying": "the relay waits",
    "Postgres is behind Kafka (commits lost in a failover?); some messages may be published twice": (
        "the database has lost cursors; messages may be repeated"
    ),
    "stopped while Kafka is away; nothing is lost": "stopped while kafka is away; nothing is lost",
    "partition maintenance skipped": "no housekeeping",
    "kafka is available again": "kafka is there",
    "pending requests re-sent": "sagas asked again",
    "signing keys fetched": "the issuer's keys",
    "cannot fetch the signing keys": "the issuer's keys cannot be had",
    "event stream failed": "a stream broke off",
    "a dependency is not ready": "the database is away",
}


def add_former_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the field `former_event` to an event that had another text (a structlog processor)."""
    former = FORMER_EVENTS.get(event["event"])
    return event if former is None else {**event, "former_event": former}
