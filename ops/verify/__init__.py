"""Verifying from the outside whether the databases and the topics keep what innbox promises.

Nothing of the running system is asked, locked or written; it may be as busy as it likes. The order of
reading makes that safe, and it is: the consumers' offsets, the reservations' database, the rooms'
database, the topics, and then what was committed meanwhile (see `reading` and `relay.audit.snapshot`).
Everything goes into a scratch db, where each invariant is a query for what breaks it (`history`,
`delivery`, `inventory`, `consumption`).

What retention has dropped cannot be checked any more; it is counted in the notes, not held against
anybody. I10 (no saga stays open) and I11 (durable answers) need a witness inside and are left to tests.
"""

from innbox_process.commands import Report
from ops.verify.consumption import CONSUMPTION
from ops.verify.delivery import DELIVERY
from ops.verify.history import HISTORY
from ops.verify.inventory import INVENTORY
from ops.verify.reading import read_all
from ops.verify.snapshot import SCHEMA
from ops.verify.verdict import VIOLATIONS_NAMED_MAX, Counts, Finding, Verdict, judge
from relay.audit.snapshot import SnapshotDatabase
from runtime.settings import Settings

__all__ = ["VIOLATIONS_NAMED_MAX", "Counts", "Finding", "Report", "Verdict", "verify"]

INVARIANTS = sorted(
    (*HISTORY, *DELIVERY, *INVENTORY, *CONSUMPTION), key=lambda one: int(one.name.removeprefix("I"))
)


def silent(what: str, done: int, total: int | None) -> None:
    """Report to nobody."""


def verify(
    settings: Settings,
    *,
    report: Report = silent,
    named_max: int | None = VIOLATIONS_NAMED_MAX,
) -> Verdict:
    """Check every invariant against the databases and topics of these settings, now.

    Of each, so many violations are named, or all; the counts have them all.

    `report` is told what is being read, how many rows so far, and of how many if that is known.
    Raises what Postgres or Kafka raise when they cannot be read, and TimeoutError.
    """
    with SnapshotDatabase(SCHEMA) as db:
        read_all(db, settings, report)
        return judge(db, INVARIANTS, named_max=named_max)
