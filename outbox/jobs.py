"""Timed jobs: a lease says which process runs one, and its row records how the runs ended.

The row belongs to a job, not to a session: any connection will do, one from a pooler in transaction mode
too, and nothing has to be freed. A leader that dies or hangs does not renew its lease, and when the lease
has expired the next process that claims it leads.

Leases are on the database's clock. One that ends later than any claim of now could end was given before
the clock was set back, or by a process with a longer lease: it has expired, too.

There is no epoch: a leader that was paused past its lease goes on, beside the next leader. A job must be
safe to run twice.
"""

from dataclasses import dataclass, field
from datetime import datetime
from os import getpid
from socket import gethostname
from uuid import uuid4

from sqlalchemy import Engine, text

_RECORD = "owner = :owner AS is_leader, succeeded_at, succeeded_by, failed_at, failed_by, failure"

# The clock is read again once the row is locked: two that claim at once must not both find it expired.
CLAIM = text(f"""
    INSERT INTO outbox.scheduled_job AS job (name, owner, leased_until)
    VALUES (:name, :owner, clock_timestamp() + make_interval(secs => :lease_s))
    ON CONFLICT ON CONSTRAINT pk_scheduled_job DO UPDATE
    SET owner = excluded.owner,
        leased_until = clock_timestamp() + make_interval(secs => :lease_s)
    WHERE job.owner = excluded.owner
       OR job.leased_until NOT BETWEEN clock_timestamp()
                                   AND clock_timestamp() + make_interval(secs => :lease_s)
    RETURNING {_RECORD}
""")

LOOK = text(f"SELECT {_RECORD} FROM outbox.scheduled_job WHERE name = :name")

SUCCEEDED = text(f"""
    UPDATE outbox.scheduled_job SET succeeded_at = clock_timestamp(), succeeded_by = :owner
    WHERE name = :name RETURNING {_RECORD}
""")

FAILED = text("""
    UPDATE outbox.scheduled_job
    SET failed_at = clock_timestamp(), failed_by = :owner, failure = :reason,
        leased_until = CASE WHEN :resigns AND owner = :owner THEN clock_timestamp() ELSE leased_until END
    WHERE name = :name
""")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Whether the process that asks is the job's leader, and how the last runs ended, in any process."""

    is_leader: bool
    succeeded_at: datetime | None
    succeeded_by: str | None
    failed_at: datetime | None
    failed_by: str | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class JobLease:
    """One process's claim to a timed job; each call is a transaction of its own, on any connection."""

    engine: Engine
    job: str
    # No other process has this name, even where every container has the same host and pid.
    owner: str = field(default_factory=lambda: f"{gethostname()}:{getpid()}:{uuid4().hex[:8]}")

    def claim(self, lease_s: float) -> JobRecord:
        """Take or renew the lease, unless another process has it; returns the record."""
        values = {"name": self.job, "owner": self.owner, "lease_s": lease_s}
        with self.engine.begin() as connection:
            row = connection.execute(CLAIM, values).one_or_none()
            return JobRecord(*(row or connection.execute(LOOK, values).one()))

    def succeeded(self) -> JobRecord:
        """Record that a run has ended well, and return the record."""
        values = {"name": self.job, "owner": self.owner}
        with self.engine.begin() as connection:
            return JobRecord(*connection.execute(SUCCEEDED, values).one())

    def failed(self, reason: str, *, resigns: bool = False) -> None:
        """Record that a run has failed, and why in one line; to resign ends the lease, if it has it."""
        values = {"name": self.job, "owner": self.owner, "reason": reason, "resigns": resigns}
        with self.engine.begin() as connection:
            connection.execute(FAILED, values)
