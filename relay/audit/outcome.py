"""What an audit says: for each topic how many of each kind, and the first of them by name."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from relay.audit.databases import Window
from relay.audit.snapshot import SnapshotDatabase

RECORDS_NAMED_MAX = 10

# What somebody knows of already comes last.
_WHO = "acknowledged_by, acknowledged_at, known.reason AS acknowledged_reason"
_KNOWN = """JOIN home ON home.id = found.home
    LEFT JOIN acknowledged AS known ON known.home = found.home AND known.kind = :kind
        AND known.topic = found.topic AND known.message_id = found.message_id"""
_IN_ORDER = "ORDER BY known.message_id IS NOT NULL, found.home, found.position"


def _messages(table: str, condition: str, *columns: str) -> str:
    return f"""
        SELECT found.message_id, key, name AS database, position, {", ".join((*columns, _WHO))}
        FROM {table} AS found {_KNOWN}
        WHERE found.topic = :topic AND {condition} {_IN_ORDER}
    """


_BY_STATUS = _messages("judged", "status = :kind")
_REPEATED = _messages("judged", "records > 1", "records", "event_id")
_OVERTAKEN = ("overtaken_id", "overtaken_position", "overtaken_offset", "found.reason")
_OVERTOOK = _messages("inversion", "outcome = :kind", "partition", "offset", *_OVERTAKEN)
_UNKNOWN = """
    SELECT event_id, key, source, partition, offset FROM unknown_record
    WHERE topic = :topic ORDER BY partition, offset
"""
# What is named, the worst first.
LISTS = {
    "missing": _BY_STATUS,
    "out_of_order": _OVERTOOK,
    "unknown": _UNKNOWN,
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
    UNION ALL SELECT topic, 'republished', count(*) FROM judged WHERE run IS NOT NULL GROUP BY topic
    UNION ALL SELECT topic, 'unknown', count(*) FROM unknown_record GROUP BY topic
    UNION ALL SELECT topic, outcome, count(*) FROM inversion
    WHERE outcome <> 'overlapping' GROUP BY topic, outcome
"""
FINDINGS = """
    SELECT name, kind, topic, message_id, position, created_at, is_acknowledged
    FROM finding JOIN home ON home.id = home
    WHERE kind <> 'duplicated' OR :exactly_once ORDER BY home, position
"""
PLACES = f"""
    SELECT partition, offset FROM record WHERE event_id = :event_id AND topic = :topic
    ORDER BY published_at, partition, offset LIMIT {RECORDS_NAMED_MAX}
"""

_UNTIMED = """
    SELECT name FROM home WHERE NOT has_commit_times
      AND id IN (SELECT home FROM inversion WHERE outcome = 'undecided')
"""
_MOVED_KEYS = """
    SELECT count(*) FROM (
        SELECT 1 FROM judged WHERE status = 'published' GROUP BY home, topic, key
        HAVING min(partition) <> max(partition) OR count(partition) < count(*))
"""
# What a query finds, unless it is 0, and the sentence about it.
REMARKS = (
    (_MOVED_KEYS, "{} keys are in more than one partition, between which there is no order"),
    (
        "SELECT count(*) FROM inversion WHERE outcome = 'overlapping'",
        "{} messages overtook one that was not yet committed: no order is promised",
    ),
    (
        "SELECT count(*) FROM inversion WHERE outcome = 'undecided' AND reason <> 'no commit timestamp'",
        "{} messages overtook one so soon after its commit that the clocks cannot tell",
    ),
    (
        _UNTIMED,
        (
            "{}: without commit timestamps the order of transactions is undecided; set "
            "track_commit_timestamp = on and restart Postgres, for what is committed from then on"
        ),
    ),
)


class Finding(NamedTuple):
    """What makes an audit fail, unless it is acknowledged; `created_at` of what is missing alone."""

    database: str
    kind: str
    topic: str
    message_id: str
    position: int
    created_at: float | None
    is_acknowledged: int  # 1 or 0, as SQLite has it


@dataclass(frozen=True, slots=True)
class TopicAudit:
    """How a topic stands. Every committed message is of one of the kinds in the second block.

    `republished` are published, too: by a mend or a replay, after the first record was lost. The two
    of `acknowledged` count, by kind, what makes an audit fail. `found` names all by kind, up to the
    bound that was asked for; the counts have them all.
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

    republished: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    undecided: int = 0
    unknown: int = 0
    acknowledged: dict[str, int] = field(default_factory=dict)
    unacknowledged: dict[str, int] = field(default_factory=dict)
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit of a window. Repetitions count against it only where delivery is exactly once."""

    topics: list[TopicAudit]
    window: Window
    exactly_once: bool
    notes: list[str]
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        return all(finding.is_acknowledged for finding in self.findings)

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
    db: SnapshotDatabase,
    topics: set[str],
    window: Window,
    *,
    exactly_once: bool,
    named_max: int | None,
) -> Audit:
    """Ask a filled and judged database; None names everything."""
    counts: dict[str, dict[str, int]] = {topic: {} for topic in topics}
    for topic, kind, count in db.rows(COUNTS):
        counts[topic][kind] = count
    rows = db.rows(FINDINGS, {"exactly_once": exactly_once})
    findings = [Finding._make(row) for row in rows]
    audits = [
        TopicAudit(
            topic,
            **counted,
            acknowledged=_by_kind(findings, topic, is_acknowledged=True),
            unacknowledged=_by_kind(findings, topic, is_acknowledged=False),
            found=_found(db, topic, counted, named_max),
        )
        for topic, counted in sorted(counts.items())
    ]
    notes = [
        sentence.format(found) for query, sentence in REMARKS for found in db.column(query) if found
    ]
    return Audit(audits, window, exactly_once, notes, findings)


def _by_kind(findings: list[Finding], topic: str, *, is_acknowledged: bool) -> dict[str, int]:
    ours = (each for each in findings if each.topic == topic)
    return dict(Counter(each.kind for each in ours if each.is_acknowledged == is_acknowledged))


def _found(
    db: SnapshotDatabase, topic: str, counts: dict[str, int], named_max: int | None
) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for kind, query in LISTS.items():
        if counts.get(kind):
            rows = db.dict_rows(query, {"topic": topic, "kind": kind})
            found[kind] = [_with_who_knows(row) for row in islice(rows, named_max)]
    for repeated in found.get("duplicated", ()):
        values = {"topic": topic, "event_id": repeated.pop("event_id")}
        repeated["places"] = list(db.dict_rows(PLACES, values))
    return found


def _with_who_knows(row: dict[str, Any]) -> dict[str, Any]:
    known = {name: row.pop(f"acknowledged_{name}", None) for name in ("by", "at", "reason")}
    return row | {"acknowledged": known} if known["by"] else row
