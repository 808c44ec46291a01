"""What a command reports to the person who runs it: its progress, and why it cannot be carried out."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

# Progress of long work: its name, how much is done, and the total (None: unknown).
Report = Callable[[str, int, int | None], None]
_Item = TypeVar("_Item")


class CommandError(Exception):
    """A message for the person at the terminal, which names what to do next."""


def reported(report: Report, what: str, items: Sequence[_Item]) -> Iterator[_Item]:
    """Yield the items, and report how many of them are done."""
    for number, item in enumerate(items):
        report(what, number, len(items))
        yield item
    report(what, len(items), len(items))
