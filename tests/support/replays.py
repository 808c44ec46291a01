"""Replays in processes of their own, which can be killed; and sessions as a replay has them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from innbox_process.database import direct_engine
from ops.environment import as_environment
from outbox import reader
from runtime.settings import Settings

# `innbox`, killed when a part of 16 messages is published and not recorded, after 1 + 2 + 4 + 8 others.
DIES_BEFORE_SAVING = """
import os, signal
from itertools import count
from ops.cli import main
from outbox import admin

save, parts = admin.save_replay, count(1)

def dying(*arguments, **options):
    if next(parts) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*arguments, **options)

admin.save_replay = dying
main()
"""
IN_HAND, RECORDED = 16, 15


@contextmanager
def a_session(settings: Settings) -> Iterator[Connection]:
    """A connection as a replay has it; the end of it is the end of the runner."""
    engine = direct_engine(settings, settings.database_url, "replay")
    with engine.connect() as connection:
        reader.prepare_session(connection)
        yield connection
    engine.dispose()


def a_child(settings: Settings, *arguments: str, code: str = "") -> subprocess.Popen[str]:
    program = ["-c", code] if code else ["-m", "ops.cli"]
    return subprocess.Popen(
        [sys.executable, *program, "outbox", *arguments],
        env=os.environ | as_environment(settings),
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
