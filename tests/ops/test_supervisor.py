"""The supervisor: what dies is restarted, and at the end nobody is left."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from ops import supervisor as module
from ops.ports import free_port
from ops.supervisor import Child, NotReady, Supervisor
from tests.support.waiting import DEADLINE_S, eventually

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
# What answers for a process of ours; it dies of a port that is taken.
ANSWERS = f"""
import sys
from innbox_process.health import Health, HealthServer
from runtime.settings import SettingsError
try:
    server = HealthServer(Health(), "127.0.0.1", {{port}})
except SettingsError as error:
    sys.exit(str(error))
{FOREVER}
"""
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def a_child(directory: Path, name: str, program: str, *, port: int = 1) -> Child:
    """A child that runs a program; by default nobody answers on its port."""
    arguments = [sys.executable, "-c", program]
    url = f"http://127.0.0.1:{port}"
    return Child(name, arguments, dict(os.environ), url, directory / "logs" / f"{name}.log")


@contextmanager
def another_program(port: int, status: int, body: str) -> Iterator[None]:
    """Somebody else's program, which answers whatever it is asked on a port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def a_family(
    directory: Path, *programs: str
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process with a supervisor, and its children; all are gone after the block."""
    unused = {"DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory), *programs],
        env=os.environ | unused | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        cwd=Path(__file__).parents[2],
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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, '{"ready": true, "problems": {}}'),
        (200, '{"ready": true, "problems": {}, "instance": "of one that was there before"}'),
        (503, '{"ready": false, "problems": {"database": "away"}}'),
        (200, "<html>"),
        (404, "[]"),
    ],
)
def test_another_program_on_the_port_is_not_taken_for_the_child(
    tmp_path: Path, status: int, body: str
) -> None:
    """Whatever it answers, to a child that lives."""
    port = free_port()
    with (
        another_program(port, status, body),
        Supervisor([a_child(tmp_path, "rooms", FOREVER, port=port)], stop_s=5) as supervisor,
    ):
        (state,) = supervisor.states()
        assert (state.is_ready, state.answers) == (False, False)
        assert state.problems == f"another program answers on http://127.0.0.1:{port}"


def test_a_child_whose_port_is_taken_is_ready_once_it_has_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it dies and is restarted, and never is it the other program that makes it ready."""
    monkeypatch.setattr(module, "_RESTART_S_MAX", module._RESTART_S_MIN)
    port = free_port()
    child = a_child(tmp_path, "relay", ANSWERS.format(port=port), port=port)

    with ExitStack() as ours:
        with another_program(port, 200, '{"ready": true, "problems": {}}'):
            supervisor = ours.enter_context(Supervisor([child], stop_s=5))

            def has_died_twice() -> bool:
                (state,) = supervisor.states()
                assert not state.is_ready
                return state.restarts > 1

            eventually(has_died_twice, deadline_s=2 * DEADLINE_S)
        assert "cannot listen" in child.log.read_text()
        supervisor.wait_until_ready(2 * DEADLINE_S)


def test_a_child_inherits_nothing_but_its_streams(tmp_path: Path) -> None:
    """A socket that it kept would be taken for as long as it lives."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.set_inheritable(True)
        child = a_child(tmp_path, "rooms", FOREVER)
        with Supervisor([child], stop_s=5) as supervisor:
            process = psutil.Process(pid_of(supervisor, "rooms"))
            eventually(lambda: process.cmdline()[1:] == list(child.arguments)[1:])
            assert process.net_connections() == []


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
