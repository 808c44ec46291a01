"""The supervisor: what dies is restarted, and at the end nobody is left."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from ops.supervisor import Child, NotReady, Supervisor
from tests.waiting import eventually

pytestmark = pytest.mark.unit

FOREVER = "import signal; signal.pause()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def a_child(directory: Path, name: str, program: str) -> Child:
    arguments = [sys.executable, "-c", program]
    nobody = "http://127.0.0.1:1"
    return Child(name, arguments, dict(os.environ), nobody, directory / "logs" / f"{name}.log")


def pid_of(supervisor: Supervisor, name: str) -> int | None:
    return next(state.pid for state in supervisor.states() if state.name == name)


def test_a_killed_process_is_restarted(tmp_path: Path) -> None:
    with Supervisor([a_child(tmp_path, "relay", FOREVER)], stop_s=5) as supervisor:
        killed = supervisor.kill("relay")
        born = eventually(
            lambda: (pid := pid_of(supervisor, "relay")) is not None and pid != killed and pid
        )
        assert psutil.pid_exists(int(born))
        assert [state.restarts for state in supervisor.states()] == [1]


def test_at_the_end_nobody_is_left_not_even_the_deaf(tmp_path: Path) -> None:
    children = [a_child(tmp_path, "tame", FOREVER), a_child(tmp_path, "deaf", DEAF)]
    with Supervisor(children, stop_s=0.5) as supervisor:
        pids = [state.pid for state in supervisor.states()]
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)


def test_a_process_that_never_gets_ready_is_named_with_its_log(tmp_path: Path) -> None:
    with (
        Supervisor([a_child(tmp_path, "rooms", FOREVER)], stop_s=5) as supervisor,
        pytest.raises(NotReady, match=r"rooms: starting; see .*rooms\.log"),
    ):
        supervisor.wait_until_ready(0.2)


def test_what_a_process_says_is_kept_in_its_log(tmp_path: Path) -> None:
    child = a_child(tmp_path, "chatty", f"print('hello from here', flush=True); {FOREVER}")
    with Supervisor([child], stop_s=5):
        eventually(lambda: "hello from here" in child.log.read_text())
