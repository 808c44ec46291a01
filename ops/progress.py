"""Progress of long work: what is done, how much of it, and of how much in all (None: unknown)."""

from collections.abc import Callable

Report = Callable[[str, int, int | None], None]
