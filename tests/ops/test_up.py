"""`innbox up` and what it shares with the demo: who may run it, what it tells, how it ends."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from prometheus_client import REGISTRY

from api.middleware.observability import SECONDS
from consumers.metrics import HANDLED
from innbox_process.commands import CommandError
from ops.local import Servers
from ops.stack import only_one, running_stack, suggestions
from ops.supervisor import ChildState
from ops.up import COUNTERS, changes, done
from relay.metrics import PUBLISHED
from tests.support.waiting import eventually

NOBODY = "127.0.0.1:1"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with servers, of which nothing is asked, and nothing else."""
    for name in ("TOPIC_REPLICATION", "LEASE_S", "HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", f"postgresql+psycopg://nobody@{NOBODY}/none")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", NOBODY)
    return monkeypatch


def a_state(*, pid: int | None = 11, restarts: int = 0, is_ready: bool = True) -> ChildState:
    problems = "" if is_ready else "starting"
    return ChildState("relay", pid, restarts, is_ready, problems, Path("relay.log"))


@pytest.mark.unit
@pytest.mark.usefixtures("given")
def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(CommandError, match=f"port {port} is in use .*--port"),
            running_stack(tmp_path, print, port=port),
        ):
            pytest.fail("it pretends to work")


@pytest.mark.unit
@pytest.mark.usefixtures("given")
def test_a_second_up_on_a_directory_is_refused_by_the_first_ones_pid(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        only_one(data),
        pytest.raises(CommandError, match=rf"process {os.getpid()} .*runs innbox on {data}"),
        running_stack(data, print),
    ):
        pytest.fail("there are two")
    with only_one(data):
        """It goes with its holder."""
    assert list(data.iterdir()) == []


@pytest.mark.unit
def test_what_the_environment_says_is_not_overridden(given: pytest.MonkeyPatch) -> None:
    assert set(suggestions(3)) == {"lease_s"}
    given.delenv("KAFKA_BOOTSTRAP_SERVERS")
    assert suggestions(3)["topic_replication"] == 3
    given.setenv("TOPIC_REPLICATION", "2")
    given.setenv("LEASE_S", "7")
    assert suggestions(3) == {}


@pytest.mark.unit
def test_every_counter_on_the_screen_is_one_that_is_counted() -> None:
    counted = {REGISTRY._names_to_collectors.get(name) for name in COUNTERS.values()}
    assert counted == {SECONDS, PUBLISHED, HANDLED}


@pytest.mark.unit
def test_only_the_members_requests_count_as_done() -> None:
    metrics = """
# TYPE innbox_http_request_seconds histogram
innbox_http_request_seconds_count{method="GET",route="/v1/stays",status="200"} 2.0
innbox_http_request_seconds_count{method="POST",route="/v1/reservations",status="202"} 3.0
innbox_http_request_seconds_count{method="GET",route="/healthz/ready",status="200"} 500.0
innbox_http_request_seconds_count{method="GET",route="none",status="404"} 70.0
# TYPE innbox_relay_messages_total counter
innbox_relay_messages_total 9.0
"""
    assert done("api", metrics) == 5
    assert done("relay-rooms", metrics) == 9


@pytest.mark.unit
def test_each_change_is_told_once() -> None:
    ready = a_state()
    dead = replace(ready, pid=None, is_ready=False)
    again = a_state(pid=12, restarts=1, is_ready=False)
    told = [
        list(changes({"relay": was} if was else {}, [now]))
        for was, now in (
            (None, ready),
            (ready, ready),
            (ready, dead),
            (dead, again),
            (again, replace(again, is_ready=True)),
        )
    ]
    assert told == [
        ["relay is ready (pid 11)"],
        [],
        ["relay has died; see relay.log"],
        ["relay died and was restarted (pid 12); it is not ready: starting"],
        ["relay is ready (pid 12)"],
    ]


def test_a_demo_asked_to_end_leaves_no_process_and_no_directory(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    """Also with servers that are not its own."""
    given = os.environ | {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers,
        "KAFKA_PREFIX": f"demo-{os.getpid()}-",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "ops.cli", "demo", "--reservations", "100000"]
    with subprocess.Popen(command, env=given, stderr=subprocess.DEVNULL) as demo:
        try:
            process = psutil.Process(demo.pid)
            started = eventually(lambda: len(found := process.children()) == 4 and found)
            assert isinstance(started, list)
            demo.send_signal(signal.SIGTERM)
            assert demo.wait(60) == 128 + signal.SIGTERM
        finally:
            demo.kill()
    assert not any(child.is_running() for child in started)
    # The claims of ports are one file for all of a user's processes, which stays.
    assert [path.name for path in tmp_path.iterdir()] == [f"innbox-ports-{os.getuid()}.lock"]
