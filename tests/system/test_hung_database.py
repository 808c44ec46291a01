"""A database that is not there yet, hangs, or confirms no commit: it is seen, bounded, and got over.

With processes as they are deployed, on a Postgres of the test's own, which is stopped by signals.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from api.identity.scopes import INVENTORY, READ, WRITE
from api.identity.signing import sign
from innbox_process import bounds, health, probing
from innbox_process.health import Health
from ops import local
from ops.local import Servers
from ops.local.processes import find
from ops.migrate import migrate
from ops.supervisor import Supervisor, children_of
from ops.topics import create_topics, declare
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.api_client import ME, a_stay, an_api, assert_problem, today
from tests.support.waiting import eventually

PATIENCE_S = 60.0
COMMITS_WAIT = 'innbox_dependency_ready{dependency="commits"} 0.0'
RESERVATIONS = "/v1/reservations"


@pytest.fixture
def own(data: Path, servers: Servers) -> Iterator[Settings]:
    """Settings for a Postgres of the test's own, in which nothing is yet."""
    with local.running(data, durable=False, parts=["postgres"]) as postgres:
        yield a_configuration(servers, postgres.database_url, statement_timeout_s=2.0)


@pytest.fixture
def admin(own: Settings) -> Iterator[Engine]:
    """A superuser's engine, whose sessions do not outlive their use."""
    engine = create_engine(own.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def test_an_api_outlives_a_database_that_hangs_or_confirms_nothing(
    own: Settings, admin: Engine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bounds that are shorter than those of a deployment, in the same proportions."""
    monkeypatch.setattr(bounds, "BEYOND_S", 1.0)
    monkeypatch.setattr(probing, "EVERY_S", 0.3)
    monkeypatch.setattr(probing, "ANSWER_S", 1.0)
    monkeypatch.setattr(probing, "SLOW_S", 0.3)
    monkeypatch.setattr(health, "SILENT_S_MAX", 1.5)
    monkeypatch.setattr(health, "HUNG_S_MIN", 4.0)
    monkeypatch.setattr(health, "STATEMENTS_PER_TURN", 1)
    migrate(own.database_url)
    declare(own)
    with an_api(own.database_url, statement_timeout_s=1.0) as api:
        member = api.member(ME, READ, WRITE, INVENTORY)
        await_ready(member)
        with hanging(data):
            everybody_is_answered(member)
            eventually(lambda: "database" in problems(member))
            outlive(Health(beat_s_max=health.hung_s(api.settings)))
            assert member.get("/healthz/live").status_code == 200
        await_ready(member)
        assert set_nights(member).status_code == 200
        no_commit_is_confirmed_and_then_all_are(admin, member)


@pytest.mark.proof
def test_every_process_waits_for_its_database_and_outlives_what_befalls_it(
    own: Settings, admin: Engine, data: Path, tmp_path: Path
) -> None:
    """Started before the schema, through a hang of more than a minute, and with an absent standby."""
    with Supervisor(children_of(own, tmp_path), stop_s=own.shutdown_s) as crew:
        url = next(state.health_url for state in crew.states() if state.name == "api")
        token = sign(own, ME, (READ, WRITE, INVENTORY))
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as member:
            they_wait_for_the_schema_and_then_for_the_topics(own, crew, member)
            a_saga_ends(member, "before")
            with hanging(data):
                everybody_is_answered(member)
                await_problem(crew, "database: ")
                outlive(Health(beat_s_max=health.hung_s(own)))
                for each in crew.states():
                    live = httpx.get(f"{each.health_url}/healthz/live", timeout=PATIENCE_S)
                    assert live.status_code == 200
            crew.wait_until_ready(PATIENCE_S)
            a_saga_ends(member, "between")
            no_commit_is_confirmed_and_then_all_are(admin, member)
            crew.wait_until_ready(PATIENCE_S)
            a_saga_ends(member, "after")
        assert [state.restarts for state in crew.states()] == [0] * 4


def they_wait_for_the_schema_and_then_for_the_topics(
    own: Settings, crew: Supervisor, member: httpx.Client
) -> None:
    await_problem(crew, "run `migrate`")
    assert_problem(member.post(RESERVATIONS, json=a_stay()), 503, "unavailable")
    assert_problem(member.get(RESERVATIONS), 503, "unavailable")

    migrate(own.database_url)
    await_problem(crew, "run `topics`")
    assert_problem(member.post(RESERVATIONS, json=a_stay()), 503, "unavailable")
    assert member.get(RESERVATIONS).status_code == 200

    create_topics(own)
    crew.wait_until_ready(PATIENCE_S)
    assert set_nights(member).status_code == 200


def everybody_is_answered(member: httpx.Client) -> None:
    """Within the client's patience, which is longer than a statement may take."""
    with ThreadPoolExecutor(12) as callers:
        answers = [callers.submit(member.get, RESERVATIONS) for _ in range(6)]
        answers += [callers.submit(set_nights, member) for _ in range(3)]
        answers += [callers.submit(member.post, RESERVATIONS, json=a_stay()) for _ in range(3)]
        assert {answer.result().status_code for answer in answers} == {503}


def outlive(control: Health) -> None:
    """Wait until a process whose loop does not turn would be taken for dead."""
    eventually(lambda: not control.is_live, deadline_s=2 * PATIENCE_S)


def no_commit_is_confirmed_and_then_all_are(admin: Engine, member: httpx.Client) -> None:
    """Who wrote is told that nobody knows, who reads does not notice, and nobody else begins to write."""
    key = {"Idempotency-Key": "unconfirmed"}
    with unconfirmed(admin), ThreadPoolExecutor(16) as callers:
        asked = callers.submit(member.post, RESERVATIONS, json=a_stay(), headers=key)
        writing = [callers.submit(set_nights, member, room=room) for room in range(10, 24)]
        reading = [member.get(RESERVATIONS) for _ in range(10)]
        assert {answer.status_code for answer in reading} == {200}
        eventually(lambda: "synchronous_standby_names" in problems(member).get("commits", ""))
        assert_problem(asked.result(), 503, "outcome-unknown")
        answered = [answer.result().json()["type"] for answer in writing]
        assert answered.count("/problems/outcome-unknown") >= 10
        waiting = sessions_waiting(admin)
        for _ in range(5):
            assert_problem(set_nights(member, room=7), 503, "unavailable")
        assert sessions_waiting(admin) <= waiting
        eventually(lambda: COMMITS_WAIT in member.get("/metrics").text)
        assert member.get(RESERVATIONS).status_code == 200
    await_ready(member)
    again = member.post(RESERVATIONS, json=a_stay(), headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"


def await_ready(member: httpx.Client) -> None:
    eventually(lambda: member.get("/healthz/ready").status_code == 200, deadline_s=PATIENCE_S)


def problems(member: httpx.Client) -> dict[str, str]:
    found: dict[str, str] = member.get("/healthz/ready").json()["problems"]
    return found


def a_saga_ends(member: httpx.Client, key: str) -> None:
    """A reservation goes through all four processes."""
    keyed = {"Idempotency-Key": key}

    def is_reserved() -> httpx.Response | None:
        answer = member.post(RESERVATIONS, json=a_stay(), headers=keyed)
        return answer if answer.status_code in {200, 202} else None

    reserved = eventually(is_reserved, deadline_s=PATIENCE_S)
    assert reserved is not None
    location = reserved.headers["Location"]
    eventually(
        lambda: member.get(location).json().get("status") == "CONFIRMED", deadline_s=PATIENCE_S
    )


def set_nights(member: httpx.Client, *, room: int = 1) -> httpx.Response:
    first, last = a_stay()["checkInDate"], today().replace(year=today().year + 1, day=1)
    nights = {"from": first, "to": last.isoformat(), "capacity": 100}
    return member.put(f"/v1/rooms/{room}/nights", json=nights)


def await_problem(crew: Supervisor, words: str) -> None:
    """Return when each process says so of itself."""
    eventually(
        lambda: all(words in state.problems for state in crew.states()), deadline_s=PATIENCE_S
    )


@contextmanager
def hanging(data: Path) -> Iterator[None]:
    """Stop the server and all of its sessions: the kernel goes on to take what is sent to them."""
    family = [
        process
        for server in find(str(data / "postgres"))
        for process in (server, *server.children(recursive=True))
    ]
    assert family
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()


@contextmanager
def unconfirmed(admin: Engine) -> Iterator[None]:
    """Have every commit wait for a standby that nobody has ever seen."""
    configure(admin, "ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
    eventually(lambda: shown(admin) == "ghost")
    try:
        yield
    finally:
        configure(admin, "ALTER SYSTEM RESET synchronous_standby_names")


def configure(admin: Engine, statement: str) -> None:
    with admin.connect() as connection:
        connection.execute(text(statement))
        connection.execute(text("SELECT pg_reload_conf()"))


def shown(admin: Engine) -> str:
    with admin.connect() as connection:
        return str(connection.scalar(text("SHOW synchronous_standby_names")))


def sessions_waiting(admin: Engine) -> int:
    with admin.connect() as connection:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return connection.scalar(text(waiting)) or 0
