"""A process with all kinds of timed jobs, whose wall clock a test sets.

A line on standard input sets the clock by so many seconds, and is answered by a line. Only what plans by
the clock sees it, APScheduler and `innbox_process.schedule`: an ordinary user can set no real clock.
"""

import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread

from consumers import process
from innbox_process.database import direct_engine
from innbox_process.logs import configure_logs
from innbox_process.schedule import scheduled
from ops.relay_config import relay_config
from outbox import JobLease
from relay.housekeeping import maintain_partitions_once
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = "CLOCK_TEST_SETTINGS"

_true_time = time.time
_ahead_s = 0.0


class _Clock(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "_Clock":
        return super().now(tz) + dt.timedelta(seconds=_ahead_s)


def _run(settings: Settings) -> None:
    """Run the results, as often as they redrive forget keys, and keep house as a relay does."""
    process.EXPIRY_EVERY_S = settings.redrive_every_s
    engine = direct_engine(settings, settings.database_url, "relay", "innbox_relay")
    lease = JobLease(engine, "outbox-housekeeping")
    maintain = partial(maintain_partitions_once, engine, relay_config(settings))
    with scheduled(lease, settings.housekeeping_s, maintain):
        process.run_results(settings)


class Child:
    """The process, as a test has it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def set_clock(self, by_s: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{by_s}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "set\n"


@contextmanager
def a_clock_child(settings: Settings) -> Iterator[Child]:
    """The process, dead at the end of the block."""
    environment = os.environ | {SETTINGS: settings.model_dump_json()}
    command = [sys.executable, "-m", "tests.support.clock_child"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True
    ) as child:
        try:
            yield Child(child)
        finally:
            child.kill()


def _set_clocks() -> None:
    global _ahead_s  # noqa: PLW0603
    for line in sys.stdin:
        _ahead_s += float(line)
        sys.stdout.write("set\n")
        sys.stdout.flush()


def _be_set() -> None:
    """Give what has been imported the clock that can be set."""
    time.time = lambda: _true_time() + _ahead_s
    for name, module in list(sys.modules.items()):
        plans = name.startswith("apscheduler.") or name == "innbox_process.schedule"
        if plans and getattr(module, "datetime", None) is dt.datetime:
            vars(module)["datetime"] = _Clock
    Thread(target=_set_clocks, daemon=True).start()


if __name__ == "__main__":
    told = Settings.model_validate_json(os.environ[SETTINGS])
    configure_logs(told, "results")
    _be_set()
    _run(told)
