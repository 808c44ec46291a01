"""Progress of long work: its name, how much is done, and the total (None: unknown)."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Report = Callable[[str, int, int | None], None]
_Item = TypeVar("_Item")


def reported(report: Report, what: str, items: Sequence[_Item]) -> Iterator[_Item]:
    """Yield the items, and report how many of them are done."""
    for number, item in enumerate(items):
        report(what, number, len(items))
        yield item
    report(what, len(items), len(items))
