"""Timed jobs run whatever happens to clocks, leaders and connections, and it shows when none does."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Barrier, Event
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from innbox_process import schedule
from innbox_process.schedule import scheduled
from outbox import JobLease, JobRecord
from runtime.settings import Settings
from tests.consumers.test_redrive import age, versions
from tests.support.clock_child import a_clock_child
from tests.support.saga import a_reservation
from tests.support.waiting import eventually

HOUR_S = 3_600.0
FIFTY_YEARS_S = 50 * 365 * 86_400.0
LEASE_S = 60.0

AGE_LEASE = text("""
    UPDATE outbox.scheduled_job
    SET leased_until = clock_timestamp() + make_interval(secs => :ends_in_s) WHERE name = :name
""")
SUCCESSES = text(
    "SELECT name, succeeded_at FROM outbox.scheduled_job WHERE succeeded_at IS NOT NULL"
)
# As processes of before the leases elected.
OLD_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended('innbox.leader.' || :name, 0))")


@pytest.fixture
def job(engine: Engine) -> str:
    """A name that no other test has in the metrics of this process."""
    return f"job of {engine.url.database}"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and the alarm's bound of seconds, where the intervals are short."""
    monkeypatch.setattr(schedule, "LEASE_GRACE_S", 2.0)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Any]]]:
    """What was logged under an event."""
    log = structlog.testing.CapturingLogger()
    monkeypatch.setattr(schedule, "_log", log)
    return lambda said: [
        {"level": call.method_name, **call.kwargs} for call in log.calls if call.args == (said,)
    ]


def test_timed_jobs_go_on_when_the_wall_clock_is_set(settings: Settings, engine: Engine) -> None:
    """Back, and ahead as far as from a machine's first second to today."""
    often = settings.model_copy(
        update={"redrive_every_s": 0.5, "redrive_after_s": 60.0, "housekeeping_s": 0.5}
    )
    jobs = {"redrive", "forget-keys", "outbox-housekeeping"}
    with a_clock_child(often) as child:
        eventually(lambda: successes(engine).keys() == jobs, deadline_s=60)
        for by_s in (-HOUR_S, FIFTY_YEARS_S):
            child.set_clock(by_s)
            await_successes(engine, 2)
        waiting = a_reservation(engine)
        age(engine, waiting.id)
        eventually(lambda: versions(engine)[waiting.id] == ("PENDING", 2))


def test_one_process_leads_until_its_lease_expires(engine: Engine) -> None:
    """On the database's clock; nothing has to be freed, so no way to die can keep it."""
    one, another = JobLease(engine, "job"), JobLease(engine, "job")
    assert one.claim(LEASE_S).is_leader
    assert not another.claim(LEASE_S).is_leader
    assert one.claim(LEASE_S).is_leader

    end_lease(engine, in_s=-1)
    assert another.claim(LEASE_S).is_leader
    assert not one.claim(LEASE_S).is_leader


def test_a_lease_that_ends_later_than_any_has_expired(engine: Engine) -> None:
    """The database's clock was set back since, or the interval was changed."""
    one, another = JobLease(engine, "job"), JobLease(engine, "job")
    assert one.claim(LEASE_S).is_leader
    end_lease(engine, in_s=HOUR_S)
    assert another.claim(LEASE_S).is_leader


def test_of_many_that_claim_at_once_one_leads(engine: Engine) -> None:
    claimants = 8
    together = Barrier(claimants)

    def claim(lease: JobLease) -> bool:
        together.wait()
        return lease.claim(LEASE_S).is_leader

    with ThreadPoolExecutor(claimants) as threads:
        for name in map(str, range(20)):
            leases = [JobLease(engine, name) for _ in range(claimants)]
            assert sum(threads.map(claim, leases)) == 1
            end_lease(engine, in_s=-1, name=name)
            assert sum(threads.map(claim, leases)) == 1


def test_a_lock_that_a_session_left_behind_holds_no_job_up(engine: Engine, job: str) -> None:
    """A pooler may keep the connection of a process that has ended, with its lock."""
    ran = Event()
    with engine.connect() as stranded:
        assert stranded.scalar(OLD_LOCK, {"name": job})
        with scheduled(JobLease(engine, job), HOUR_S, ran.set):
            eventually(ran.is_set)


def test_the_record_says_who_ran_the_job_and_why_it_failed(engine: Engine) -> None:
    """To every process; and who has failed for long may let others try."""
    one, another = JobLease(engine, "job"), JobLease(engine, "job")
    assert one.claim(LEASE_S) == JobRecord(
        is_leader=True,
        succeeded_at=None,
        succeeded_by=None,
        failed_at=None,
        failed_by=None,
        failure=None,
    )
    one.failed("no lock")
    assert (found := another.claim(LEASE_S)).failed_at
    assert (found.is_leader, found.failed_by, found.failure) == (False, one.owner, "no lock")
    assert one.succeeded().succeeded_by == one.owner
    assert another.claim(LEASE_S).succeeded_at == one.claim(LEASE_S).succeeded_at

    another.failed("another's", resigns=True)
    assert one.claim(LEASE_S).is_leader
    one.failed("for too long", resigns=True)
    assert another.claim(LEASE_S).is_leader


@pytest.mark.usefixtures("brief")
def test_a_job_that_nobody_runs_well_raises_the_alarm_once(
    engine: Engine, job: str, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    """In every process of the kind, with the reason, until it runs again; standbys see it, too."""
    is_broken = Event()
    is_broken.set()

    def run() -> None:
        if is_broken.is_set():
            raise RuntimeError("broken\nfor long")

    with ExitStack() as processes:
        for _ in range(2):
            processes.enter_context(scheduled(JobLease(engine, job), 0.25, run))
        eventually(lambda: len(logged("timed job overdue")) == 2)
        assert last_success(job) == 0.0
        is_broken.clear()
        eventually(lambda: len(logged("timed job runs again")) == 2)
    assert [
        (alarm["level"], alarm["job"], alarm["failure"]) for alarm in logged("timed job overdue")
    ] == 2 * [("error", job, "broken")]
    assert last_success(job) == successes(engine)[job].timestamp()


@pytest.mark.usefixtures("brief")
def test_what_hangs_raises_the_alarm_and_holds_up_no_other_job(
    engine: Engine, job: str, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    """Whether it is a job's own work or its connection; and another process takes the job over."""
    over, ran = Event(), list[None]()
    # It takes connections, and never answers.
    server = socket.create_server(("127.0.0.1", 0))
    url = engine.url.set(host="127.0.0.1", port=server.getsockname()[1], query={})
    hung = create_engine(url, poolclass=NullPool)
    jobs = (
        (JobLease(engine, job), over.wait),
        (JobLease(hung, f"{job}, hung"), over.wait),
        (JobLease(engine, f"{job}, well"), lambda: ran.append(None)),
    )
    with ExitStack() as processes:
        for lease, run in jobs:
            processes.enter_context(scheduled(lease, 0.25, run))
        processes.callback(over.set)
        processes.enter_context(closing(server))
        eventually(lambda: len(logged("timed job overdue")) == 2)
        so_far = len(ran)
        eventually(lambda: len(ran) > so_far + 1)
        assert JobLease(engine, job).claim(LEASE_S).is_leader
        assert {alarm["job"] for alarm in logged("timed job overdue")} == {job, f"{job}, hung"}


def end_lease(engine: Engine, *, in_s: float, name: str = "job") -> None:
    with engine.begin() as connection:
        connection.execute(AGE_LEASE, {"name": name, "ends_in_s": in_s})


def successes(engine: Engine) -> dict[str, Any]:
    """When each job has last succeeded."""
    with engine.connect() as connection:
        return {row.name: row.succeeded_at for row in connection.execute(SUCCESSES)}


def await_successes(engine: Engine, times: int) -> None:
    """Wait until each job has succeeded so many times more."""
    for _ in range(times):
        before = successes(engine)
        eventually(lambda: all(at > before[name] for name, at in successes(engine).items()))  # noqa: B023 - called here and now


def last_success(job: str) -> float | None:
    return REGISTRY.get_sample_value(
        "innbox_scheduled_last_success_timestamp_seconds", {"job": job}
    )
