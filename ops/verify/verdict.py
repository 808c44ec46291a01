"""What verifying says: a finding for each invariant, and a verdict over all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from relay.audit.snapshot import SnapshotDatabase

# What a breach means to a member, where it means one of these.
Harm = Literal["lost", "doubled", "oversold"]


@dataclass(frozen=True, slots=True)
class Check:
    """A query that returns one sentence, naming ids, for each breach; no row if all is well."""

    breaches: str
    harm: Harm | None = None


lost = partial(Check, harm="lost")
doubled = partial(Check, harm="doubled")
oversold = partial(Check, harm="oversold")


@dataclass(frozen=True, slots=True)
class Remark:
    """A count that is no breach but belongs to the answer; `{n}` in the sentence; silent at zero."""

    count: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Invariant:
    """A promise, how it is checked, over which rows, and the queries that would break it."""

    name: str
    promise: str
    how: str
    rows: str
    checks: tuple[Check, ...]
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """How one invariant stands. `violations` names the first of them, the count has them all."""

    invariant: str
    promise: str
    how: str
    rows: int
    violations: list[str]
    violations_count: int
    notes: list[str]

    @property
    def holds(self) -> bool:
        return self.violations_count == 0


@dataclass(frozen=True, slots=True)
class Counts:
    """The system in numbers. `backlog`: committed messages that are not yet relayed."""

    reservations: int
    confirmed: int
    rejected: int
    cancelled: int
    open: int
    messages: int
    records: int
    backlog: int
    repeated_records: int
    open_dead_letters: int
    lost: int
    doubled: int
    oversold: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings. At rest: no open saga and no backlog, so nothing was exempt as in flight."""

    at_rest: bool
    counts: Counts
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [asdict(finding) | {"holds": finding.holds} for finding in self.findings]
        return {"holds": self.holds} | asdict(self) | {"findings": findings}


COUNTS = {
    "reservations": "SELECT count(*) FROM reservation",
    "confirmed": "SELECT count(*) FROM reservation WHERE status = 'CONFIRMED'",
    "rejected": "SELECT count(*) FROM reservation WHERE status = 'REJECTED'",
    "cancelled": "SELECT count(*) FROM reservation WHERE status = 'CANCELLED'",
    "open": "SELECT count(*) FROM reservation WHERE status IN ('PENDING', 'CANCELLING')",
    "messages": "SELECT count(*) FROM message WHERE NOT late",
    "records": "SELECT count(*) FROM record",
    "backlog": "SELECT count(*) FROM message WHERE NOT late AND NOT relayed",
    "repeated_records": "SELECT count(*) - count(DISTINCT message_id) FROM record",
    "open_dead_letters": "SELECT count(*) FROM dead_letter WHERE state = 'OPEN'",
}
_IS_BUSY = "SELECT count(*) FROM message WHERE late"


def judge(db: SnapshotDatabase, invariants: Sequence[Invariant], named_max: int | None) -> Verdict:
    """Ask a filled database for every breach, and name so many of each invariant; None names all."""
    harms: Counter[str] = Counter(lost=0, doubled=0, oversold=0)
    findings = [_finding(db, invariant, harms, named_max) for invariant in invariants]
    counts = Counts(**{name: db.number(query) for name, query in COUNTS.items()}, **harms)
    at_rest = counts.open == 0 and counts.backlog == 0 and db.number(_IS_BUSY) == 0
    return Verdict(at_rest, counts, findings)


def _finding(
    db: SnapshotDatabase, invariant: Invariant, harms: Counter[str], named_max: int | None
) -> Finding:
    named: list[str] = []
    count = 0
    for check in invariant.checks:
        for sentence in db.column(check.breaches):
            count += 1
            if check.harm:
                harms[check.harm] += 1
            if named_max is None or len(named) < named_max:
                named.append(sentence)
    counted = ((remark, db.number(remark.count)) for remark in invariant.remarks)
    notes = [remark.sentence.format(n=n) for remark, n in counted if n]
    checked = (invariant.name, invariant.promise, invariant.how, db.number(invariant.rows))
    return Finding(*checked, named, count, notes)
