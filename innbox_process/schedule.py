"""Timed jobs: run by one elected process, late rather than never, whatever happens to the wall clock.

A lease elects (`outbox.JobLease`), claimed anew before each run: when the leader dies, hangs or loses
the database, the lease expires and another process runs the job. Jobs here are safe to run twice, so a
leader that was paused past its lease does no harm.

APScheduler plans by the wall clock. A thread compares that with the monotonic clock, and has the job run
at once when the wall clock was set, or the machine was suspended. The same thread raises the alarm when
no process has run the job well for too long; it needs no database, and no run can hold it up.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Protocol

import structlog
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from innbox_process.errors import first_line

_log = structlog.get_logger(__name__)

FAILED = Counter("innbox_scheduled_failures", "Runs of a timed job that failed.", ["job"])
LAST_SUCCESS = Gauge(
    "innbox_scheduled_last_success_timestamp_seconds",
    "When a timed job last succeeded, in whichever process; 0 if never.",
    ["job"],
)

# A leader may be late by this much before another process takes over: the database's bounds on a
# connection, a lock and a statement, and a stall of the machine.
LEASE_GRACE_S = 30.0
# The alarm's bound is so many intervals and a lease. The death of a leader alone never passes it: one
# interval since its last success, its lease, one until a standby asks, one until the others have seen it.
INTERVALS_MAX = 3

_LOOK_S = 1.0
_STEP_S = 1.0  # by less the clocks may differ between two looks without any of them having been set


class Record(Protocol):
    """Whether this process leads, and how runs ended last, by whichever process."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def succeeded_at(self) -> datetime | None: ...
    @property
    def succeeded_by(self) -> str | None: ...
    @property
    def failure(self) -> str | None: ...


class Lease(Protocol):
    """The right to run a job, and the record of its runs, which all processes share."""

    @property
    def job(self) -> str: ...
    def claim(self, lease_s: float) -> Record: ...
    def succeeded(self) -> Record: ...
    def failed(self, reason: str, *, resigns: bool) -> None: ...


@contextmanager
def scheduled(lease: Lease, every_s: float, run: Callable[[], object]) -> Iterator[None]:
    """Run a job at once and then on an interval while the block runs, if this process leads."""
    timed = _TimedJob(lease, every_s, run)
    # APScheduler's own defaults would skip a late run in silence.
    scheduler = BackgroundScheduler(
        timezone=UTC,
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    planned = scheduler.add_job(timed.turn, _Every(every_s), next_run_time=datetime.now(UTC))
    over = Event()
    watch = Thread(target=_watch, args=(planned, timed, over), name="watch", daemon=True)
    scheduler.start()
    watch.start()
    try:
        yield
    finally:
        over.set()
        scheduler.shutdown()
        watch.join()


class _TimedJob:
    """A job as one process sees it: `turn` is its scheduler's, and `look` its watch's."""

    def __init__(self, lease: Lease, every_s: float, run: Callable[[], object]) -> None:
        self.name = lease.job
        self._lease = lease
        self._run = run
        self._lease_s = every_s + LEASE_GRACE_S
        self._overdue_s = INTERVALS_MAX * every_s + self._lease_s
        self._record: Record | None = None
        self._succeeded_at = time.monotonic()
        self._is_overdue = False
        self._trouble: str | None = None
        LAST_SUCCESS.labels(self.name).set(0)

    def turn(self) -> None:
        """Run the job if this process leads, and record how it ended."""
        try:
            if self._note(self._lease.claim(self._lease_s)).is_leader:
                self._run()
                self._note(self._lease.succeeded())
            self._trouble = None
        except Exception as error:  # noqa: BLE001 - the next turn tries again; what stays is overdue
            self._fail(error)

    def look(self) -> None:
        """Say once that no process runs the job well, and once that one does again."""
        was_overdue = self._is_overdue
        self._is_overdue = time.monotonic() - self._succeeded_at > self._overdue_s
        if was_overdue and not self._is_overdue:
            _log.info("timed job runs again", job=self.name)
        elif self._is_overdue and not was_overdue:
            record = self._record
            succeeded_at = record and record.succeeded_at
            _log.error(
                "timed job overdue",
                job=self.name,
                bound_s=self._overdue_s,
                succeeded_at=succeeded_at and succeeded_at.isoformat(),
                succeeded_by=record and record.succeeded_by,
                failure=self._trouble or (record and record.failure),
            )

    def _note(self, record: Record) -> Record:
        """Keep what is known. Ages go by the monotonic clock, from when a success was first seen."""
        if self._record is None or record.succeeded_at != self._record.succeeded_at:
            self._succeeded_at = time.monotonic()
        self._record = record
        if record.succeeded_at is not None:
            LAST_SUCCESS.labels(self.name).set(record.succeeded_at.timestamp())
        return record

    def _fail(self, error: Exception) -> None:
        reason = first_line(error)
        FAILED.labels(self.name).inc()
        if reason != self._trouble:
            # What is no error of the database is a fault of the program: it needs its traceback.
            is_fault = not isinstance(error, SQLAlchemyError)
            _log.warning(
                "a timed job will try again", job=self.name, reason=reason, exc_info=is_fault
            )
        self._trouble = reason
        with suppress(SQLAlchemyError):  # it is away, then; the log and the counter have it already
            # Others may fare better than a leader that has failed for as long as that.
            self._lease.failed(reason, resigns=self._is_overdue)


class _Every(BaseTrigger):  # type: ignore[misc] # the package ships no types
    """An interval from each run to the next, counted from now.

    APScheduler's own counts on from the last run, through every interval that the wall clock has been set
    ahead by: from 1970, where a machine without a clock starts, that is more than its memory holds.
    """

    def __init__(self, every_s: float) -> None:
        self._every = timedelta(seconds=every_s)

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        return now + self._every


def _watch(planned: Job, timed: _TimedJob, over: Event) -> None:
    """Look after a job's plan and its successes until it is over."""
    ahead_s = _wall_ahead_s()
    while not over.wait(_LOOK_S):
        if abs((now_s := _wall_ahead_s()) - ahead_s) > _STEP_S:
            _log.warning("the wall clock was set", job=timed.name, by_s=round(now_s - ahead_s))
            ahead_s = now_s
            planned.modify(next_run_time=datetime.now(UTC))
        timed.look()


def _wall_ahead_s() -> float:
    return time.time() - time.monotonic()
