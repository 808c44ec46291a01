"""What an audit says: for each topic how many of each kind, and the first of them by name."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from ops.audit.window import Window
from ops.ledger import Ledger

RECORDS_NAMED_MAX = 10

_BY_STATUS = """
    SELECT message_id, key, name AS database, position
    FROM judged JOIN home ON home.id = home
    WHERE topic = :topic AND status = :kind ORDER BY home, position
"""
_REPEATED = """
    SELECT message_id, key, name AS database, position, records, event_id
    FROM judged JOIN home ON home.id = home
    WHERE topic = :topic AND records > 1 ORDER BY home, position
"""
_OVERTOOK = """
    SELECT message_id, key, name AS database, position, partition, offset,
           overtaken_id, overtaken_position, overtaken_offset, reason
    FROM inversion JOIN home ON home.id = home
    WHERE topic = :topic AND outcome = :kind ORDER BY home, position
"""
_STRANGE = """
    SELECT event_id, key, source, partition, offset FROM stranger
    WHERE topic = :topic ORDER BY partition, offset
"""
# What is named, the worst first.
LISTS = {
    "missing": _BY_STATUS,
    "out_of_order": _OVERTOOK,
    "unknown": _STRANGE,
    "duplicated": _REPEATED,
    "undecided": _OVERTOOK,
    "blocked": _BY_STATUS,
    "skipped": _BY_STATUS,
    "waiting": _BY_STATUS,
    "untraceable": _BY_STATUS,
    "expired": _BY_STATUS,
}

COUNTS = """
    SELECT topic, status, count(*) FROM judged GROUP BY topic, status
    UNION ALL SELECT topic, 'committed', count(*) FROM judged GROUP BY topic
    UNION ALL SELECT topic, 'duplicated', count(*) FROM judged WHERE records > 1 GROUP BY topic
    UNION ALL SELECT topic, 'unknown', count(*) FROM stranger GROUP BY topic
    UNION ALL SELECT topic, outcome, count(*) FROM inversion GROUP BY topic, outcome
"""
PLACES = f"""
    SELECT partition, offset FROM record WHERE event_id = :event_id AND topic = :topic
    ORDER BY published_at, partition, offset LIMIT {RECORDS_NAMED_MAX}
"""

UNTIMED = """
    SELECT name FROM home WHERE NOT has_commit_times
      AND id IN (SELECT home FROM inversion WHERE outcome = 'undecided')
"""
_MOVED_KEYS = """
    SELECT count(*) FROM (
        SELECT 1 FROM judged WHERE status = 'published' GROUP BY home, topic, key
        HAVING min(partition) <> max(partition) OR count(partition) < count(*))
"""
REMARKS = (
    (_MOVED_KEYS, "{n} keys are in more than one partition, between which there is no order"),
    (
        "SELECT count(*) FROM inversion WHERE outcome = 'overlapping'",
        "{n} messages overtook one that was not yet committed: no order is promised",
    ),
    (
        "SELECT count(*) FROM inversion WHERE outcome = 'undecided' AND reason <> 'no commit timestamp'",
        "{n} messages overtook one so soon after its commit that the clocks cannot tell",
    ),
)
TURN_ON = (
    "{name}: without commit timestamps the order of transactions is undecided; set "
    "track_commit_timestamp = on and restart Postgres, for what is committed from then on"
)


@dataclass(frozen=True, slots=True)
class TopicAudit:
    """How a topic stands. Every committed message is of one of the kinds in the first block.

    `found` names them by kind, up to the bound that was asked for; the counts have them all.
    """

    topic: str
    committed: int = 0

    published: int = 0
    missing: int = 0
    waiting: int = 0
    blocked: int = 0
    skipped: int = 0
    expired: int = 0
    untraceable: int = 0

    duplicated: int = 0
    out_of_order: int = 0
    undecided: int = 0
    unknown: int = 0
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit of a window. Repetitions count against it only where delivery is exactly once."""

    topics: list[TopicAudit]
    window: Window
    exactly_once: bool
    notes: list[str]

    @property
    def holds(self) -> bool:
        return not any(
            topic.missing or topic.out_of_order or (self.exactly_once and topic.duplicated)
            for topic in self.topics
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "holds": self.holds,
            "since": self.window.since,
            "until": self.window.until,
            "exactly_once": self.exactly_once,
            "topics": [asdict(topic) for topic in self.topics],
            "notes": self.notes,
        }


def conclude(
    ledger: Ledger, topics: set[str], window: Window, *, exactly_once: bool, named_max: int | None
) -> Audit:
    """Ask a filled and judged ledger; None names everything."""
    counts: dict[str, dict[str, int]] = {topic: {} for topic in topics}
    for topic, kind, count in ledger.rows(COUNTS):
        counts[topic][kind] = count
    audits = [
        TopicAudit(topic, **_counted(counted), found=_found(ledger, topic, counted, named_max))
        for topic, counted in sorted(counts.items())
    ]
    return Audit(audits, window, exactly_once, list(_notes(ledger)))


def _counted(counts: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if kind != "overlapping"}


def _found(
    ledger: Ledger, topic: str, counts: dict[str, int], named_max: int | None
) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for kind, query in LISTS.items():
        if counts.get(kind):
            rows = ledger.named(query, {"topic": topic, "kind": kind})
            found[kind] = list(islice(rows, named_max))
    for repeated in found.get("duplicated", ()):
        values = {"topic": topic, "event_id": repeated.pop("event_id")}
        repeated["places"] = list(ledger.named(PLACES, values))
    return found


def _notes(ledger: Ledger) -> Iterator[str]:
    for count, sentence in REMARKS:
        if n := ledger.number(count):
            yield sentence.format(n=n)
    for name in ledger.column(UNTIMED):
        yield TURN_ON.format(name=name)
