"""A port that one process has chosen is given to no other, although nobody listens there yet."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ops import ports

pytestmark = pytest.mark.unit

CHOOSES = """
import sys
from ops import ports
ports.PORTS = [int(port) for port in sys.argv[2:]]
print(*ports.free_ports(int(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(
    count: int, among: list[int]
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a process that claims ports and then neither listens nor ends."""
    command = [sys.executable, "-c", CHOOSES, str(count), *map(str, among)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, [int(port) for port in process.stdout.readline().split()]
        finally:
            process.kill()


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return four free ports, the only ones there are."""
    with another_process(4, list(ports.PORTS)) as (_, among):
        pass  # their claim ends with it
    monkeypatch.setattr(ports, "PORTS", among)
    monkeypatch.setattr(ports, "_claimed", set())
    return among


def test_processes_that_choose_from_the_same_ports_get_different_ones(four: list[int]) -> None:
    with another_process(2, four) as (_, theirs):
        ours = ports.free_ports(2)

        assert sorted(ours + theirs) == sorted(four)
        with pytest.raises(OSError, match="fewer than 1 ports are free"):
            ports.free_port()


def test_a_claim_ends_with_its_process(four: list[int]) -> None:
    with another_process(1, four) as (process, [port]):
        assert ports.is_free(port), "nobody listens"
        assert not ports.claim(port)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert ports.claim(port)
        assert ports.claim(port), "it is ours already"
