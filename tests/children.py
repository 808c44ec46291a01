"""Relay processes that end, or pause, at a point that a test chose: `python -m tests.children NAME`.

The settings come through the environment as JSON. Nothing in the relay knows of this.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import outbox
from outbox import PartitionChanges
from relay import process
from relay.publisher import Publisher
from runtime.logs import configure_logs
from runtime.settings import Settings

SETTINGS = "RELAY_TEST_SETTINGS"
# Readings are of 1, 2, 4, 8 … messages after a claim: enough of them are recorded before the fault,
# and enough are in hand.
FATAL_READING = 5
MESSAGES_IN_HAND = 2 ** (FATAL_READING - 1)


def relays() -> None:
    """Change nothing."""


def dies_between_publishing_and_saving() -> None:
    outbox.save = _signalling(signal.SIGKILL, outbox.save)


def dies_while_publishing() -> None:
    Publisher.flush = _signalling(signal.SIGKILL, Publisher.flush)  # type: ignore[method-assign]


def pauses_between_publishing_and_saving() -> None:
    # A pause in the midst of housekeeping would keep its locks, too, and that is another story.
    process.keep_house_once = lambda *_: PartitionChanges([], [])  # type: ignore[attr-defined]
    outbox.save = _signalling(signal.SIGSTOP, outbox.save)


CHILDREN = {
    child.__name__: child
    for child in (
        relays,
        dies_between_publishing_and_saving,
        dies_while_publishing,
        pauses_between_publishing_and_saving,
    )
}


def _signalling(number: signal.Signals, step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, which sends this process a signal before it is taken for the fatal time."""
    calls = 0

    def signalling(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == FATAL_READING:
            os.kill(os.getpid(), number)
        return step(*arguments, **options)

    return signalling


def main(arguments: Sequence[str]) -> None:
    (name,) = arguments
    settings = Settings.model_validate_json(os.environ[SETTINGS])
    configure_logs(settings, name)
    CHILDREN[name]()
    process.run(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
