"""Commands that die at a point that a test chose, by POINT ID ID.

The settings come as those of `tests.support.process_faults`. Nothing in the command knows of this.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, cast

from innbox_process.database import direct_engine
from ops.relay_config import relay_config
from outbox import admin, reader
from relay.commands.reshard import merge_shards
from runtime.settings import Settings
from tests.support.process_faults import SETTINGS

KILLED = (os.getpid(), signal.SIGKILL)


def reserved() -> None:
    reader.claim = _dying(reader.claim)


def resumed() -> None:
    reader.blocked_keys = _dying(reader.blocked_keys)


def has_published() -> None:
    """Between publishing a part and recording it, not at the first one."""
    reader.save = _dying(reader.save, calls=3)


def has_merged() -> None:
    """Before the commit."""
    merge = admin.merge

    def merge_and_die(*arguments: Any) -> Any:
        merge(*arguments)
        os.kill(*KILLED)

    admin.merge = cast("Any", merge_and_die)


POINTS = {point.__name__: point for point in (reserved, resumed, has_published, has_merged)}


def _dying(step: Callable[..., Any], calls: int = 1) -> Callable[..., Any]:
    left = [None] * calls

    def dying(*arguments: Any, **options: Any) -> Any:
        left.pop()
        if not left:
            os.kill(*KILLED)
        return step(*arguments, **options)

    return dying


def main(arguments: Sequence[str]) -> None:
    point, *ids = arguments
    settings = Settings.model_validate_json(os.environ[SETTINGS])
    POINTS[point]()
    engine = direct_engine(settings, settings.database_url, "reshard")
    config, shards = relay_config(settings), list(map(int, ids))
    merge_shards(engine, config, Event(), shards, lambda *_: None, wait_s=30)


if __name__ == "__main__":
    main(sys.argv[1:])
