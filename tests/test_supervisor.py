"""The supervisor: what dies is restarted, and at the end nobody is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ops import supervisor as module
from ops.supervisor import Child, NotReady, Supervisor
from tests.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.unit

FOREVER = "import signal; signal.pause()"
# What a command of ours does around its work.
OURS = """
import signal
from pathlib import Path
from ops.cli.processes import _run
_run(Path("nowhere"), "relay", lambda settings: signal.pause())
"""
# A process with a supervisor; says the pids of its children, and waits.
PARENT = """
import os, signal, sys
from pathlib import Path
from ops.supervisor import Child, Supervisor
log = Path(sys.argv[1]) / "child.log"
children = [
    Child(str(number), [sys.executable, "-c", program], dict(os.environ), "http://127.0.0.1:1", log)
    for number, program in enumerate(sys.argv[2:])
]
with Supervisor(children, stop_s=2) as supervisor:
    print(*(state.pid for state in supervisor.states()), flush=True)
    signal.pause()
"""
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def a_child(directory: Path, name: str, program: str) -> Child:
    arguments = [sys.executable, "-c", program]
    nobody = "http://127.0.0.1:1"
    return Child(name, arguments, dict(os.environ), nobody, directory / "logs" / f"{name}.log")


@contextmanager
def a_family(
    directory: Path, *programs: str
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process with a supervisor, and its children; all are gone after the block."""
    unused = {"DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory), *programs],
        env=os.environ | unused | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        try:
            yield parent, children
        finally:
            parent.kill()
            for child in filter(is_running, children):
                child.kill()


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


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


def test_who_keeps_dying_is_given_up_early_and_its_last_words_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cause is said long before the deadline."""
    monkeypatch.setattr(module, "_RESTART_S_MAX", module._RESTART_S_MIN)
    child = a_child(tmp_path, "api", "raise SystemExit('no room on this port')")
    with (
        Supervisor([child], stop_s=5) as supervisor,
        pytest.raises(NotReady, match="no room on this port"),
    ):
        supervisor.wait_until_ready(600)


def test_an_interrupted_start_leaves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [a_child(tmp_path, name, FOREVER) for name in ("first", "second")]
    start = module._start
    born: list[int] = []

    def start_and_interrupt(child: Child) -> None:
        start(child)
        born.append(child.pid or 0)
        if child.name == "first":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "_start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt), Supervisor(children, stop_s=5):
        pytest.fail("the block was entered")
    assert born
    assert not any(psutil.pid_exists(pid) for pid in born)


def test_processes_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with a_family(tmp_path, OURS, OURS) as (parent, children):
        parent.kill()
        assert len(children) == 2
        eventually(lambda: not any(map(is_running, children)))


def test_a_second_ctrl_c_while_stopping_changes_nothing(tmp_path: Path) -> None:
    """The first one is at work once the tame child is gone; the deaf one has two seconds yet."""
    heard = tmp_path / "deaf"
    deaf = DEAF.replace("signal.pause()", f"open({str(heard)!r}, 'w').close(); signal.pause()")
    with a_family(tmp_path, FOREVER, deaf) as (parent, (tame, stubborn)):
        eventually(heard.exists)
        parent.send_signal(signal.SIGINT)
        eventually(lambda: not is_running(tame))
        parent.send_signal(signal.SIGINT)
        parent.wait(DEADLINE_S)
        assert not is_running(stubborn)


def test_what_a_process_says_is_kept_in_its_log(tmp_path: Path) -> None:
    child = a_child(tmp_path, "chatty", f"print('hello from here', flush=True); {FOREVER}")
    with Supervisor([child], stop_s=5):
        eventually(lambda: "hello from here" in child.log.read_text())
