"""Consumers as processes that can be killed: `python -m tests.support.consumer_children NAME`.

What kills itself does so at the point named; the settings come from the environment.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consumers.group import GroupConsumer
from consumers.process import run_rooms
from runtime.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]


def rooms(settings: Settings) -> None:
    """Run as in production."""
    run_rooms(settings)


def rooms_killed_before_offsets(settings: Settings) -> None:
    """Die after the first batch is committed in Postgres, before Kafka hears of it."""

    def die(_member: GroupConsumer, _handled: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    member: Any = GroupConsumer
    member.handled = die
    run_rooms(settings)


CHILDREN = {child.__name__: child for child in (rooms, rooms_killed_before_offsets)}


@contextmanager
def a_child(name: str, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """One of these as a process, dead at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.consumer_children", name],
        cwd=ROOT,
        env=os.environ | _environment(settings),
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _environment(settings: Settings) -> dict[str, str]:
    told = settings.model_dump(
        include={"database_url", "rooms_database_url", "kafka_bootstrap_servers", "kafka_prefix"}
    )
    return {name.upper(): value for name, value in told.items()}


if __name__ == "__main__":
    CHILDREN[sys.argv[1]](load_settings())
