"""Whoever reads what we say may hang up (`| head`): that is no error, and nothing is said of it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ops.ports import free_port
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.unit

NOBODY = "127.0.0.1:1"
# A table of rich's, what click prints, a little JSON that Python writes only when it ends.
COMMANDS = (
    ("local", "status"),
    ("migrate", "--sql"),
    ("local", "status", "--json"),
)
# Starting a program takes long where everything does.
PATIENCE_S = 4 * DEADLINE_S


@contextmanager
def nobody_reading() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        yield write
    finally:
        os.close(write)


def test_a_command_whose_output_nobody_reads_ends_without_a_word(tmp_path: Path) -> None:
    """With an exit code of its own, as it has not said all that it had to."""
    with nobody_reading() as output:
        running = [started(command, tmp_path, stdout=output) for command in COMMANDS]
        said = [process.communicate(timeout=PATIENCE_S)[1] for process in running]
    assert said == [b""] * len(COMMANDS)
    assert [process.returncode for process in running] == [141] * len(COMMANDS)


def test_a_command_whose_complaint_nobody_reads_ends_as_well(tmp_path: Path) -> None:
    with nobody_reading() as output, started(("relay",), tmp_path, stderr=output) as process:
        assert process.wait(PATIENCE_S) == 141


def test_a_process_whose_log_nobody_reads_goes_on_and_ends_well(tmp_path: Path) -> None:
    """`innbox relay 2>&1 | head -1`: what it works on needs no reader."""
    logs = {name: os.pipe() for name in ("api", "relay")}
    ports = {name: free_port() for name in logs}
    running = {
        name: started((name,), tmp_path, stderr=write, port=ports[name])
        for name, (_, write) in logs.items()
    }
    for name, (read, write) in logs.items():
        os.close(write)
        with os.fdopen(read) as log:
            json.loads(log.readline())
        eventually(lambda name=name: problems(ports[name]), deadline_s=PATIENCE_S)  # type: ignore[misc]
        running[name].send_signal(signal.SIGTERM)
    assert {name: one.wait(PATIENCE_S) for name, one in running.items()} == {"api": 0, "relay": 0}


def problems(port: int) -> dict[str, str]:
    """What keeps a process from being ready; it says so in its log, too."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/ready")
    except urllib.error.HTTPError as error:
        with closing(error):
            answer: dict[str, dict[str, str]] = json.load(error)
            return answer["problems"]
    except OSError:
        pass
    return {}


def started(
    command: tuple[str, ...],
    data: Path,
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
    port: int = 0,
) -> "subprocess.Popen[bytes]":
    """A command; one with a port has servers as well, which are away."""
    servers = {
        "DATABASE_URL": f"postgresql+psycopg://{NOBODY}/none",
        "KAFKA_BOOTSTRAP_SERVERS": NOBODY,
        "JWT_KEY": "a key for tests, of thirty-two bytes or more",
        "HEALTH_PORT": str(port),
        "API_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "--data", str(data), *command],
        env={"PATH": os.environ["PATH"]} | (servers if port else {}),
        stdout=stdout,
        stderr=stderr,
    )
