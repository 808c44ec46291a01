"""Timed jobs: run by one elected process, late rather than never, and never two at a time.

An advisory lock held by a session elects; when the session ends, for whatever reason, Postgres frees
the lock and the next process to ask leads. Jobs here are safe to run twice, so an old leader that has
not yet noticed its broken connection does no harm.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from prometheus_client import Counter
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from runtime.errors import first_line

_log = structlog.get_logger(__name__)

FAILED = Counter("innbox_scheduled_failures", "Runs of a timed job that failed.", ["job"])

_TRY = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_ASK = text("SELECT 1")


@contextmanager
def scheduled(
    direct: Engine, name: str, every_s: float, job: Callable[[], object]
) -> Iterator[None]:
    """Run a job at once and then on an interval while the block runs, if this process is elected.

    `direct` gives connections in autocommit that are not shared (see `runtime.database`).
    """
    leader = Leader(direct, name)

    def run() -> None:
        if not leader.leads():
            return
        try:
            job()
        except SQLAlchemyError as error:  # what it began was rolled back; the next run tries again
            FAILED.labels(name).inc()
            _log.warning("a timed job will try again", job=name, reason=first_line(error))

    # APScheduler's own defaults would skip a late run in silence.
    scheduler = BackgroundScheduler(
        timezone=UTC,
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    scheduler.add_job(run, "interval", seconds=every_s, next_run_time=datetime.now(UTC))
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown()
        leader.resign()


class Leader:
    """One candidacy; used from one thread at a time."""

    def __init__(self, direct: Engine, name: str) -> None:
        self._engine = direct
        self._name = name
        self._connection: Connection | None = None

    def leads(self) -> bool:
        """Tell whether this process leads now, taking the lead if nobody has it."""
        try:
            if self._connection is None:
                return self._stand()
            self._connection.execute(_ASK)
        except SQLAlchemyError:
            self.resign()
            return False
        return True

    def resign(self) -> None:
        """Free the lead for others."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def _stand(self) -> bool:
        with ExitStack() as unless_elected:
            connection = unless_elected.enter_context(self._engine.connect())
            if connection.execute(_TRY, {"name": f"innbox.leader.{self._name}"}).scalar_one():
                self._connection = connection
                unless_elected.pop_all()
        return self._connection is not None
