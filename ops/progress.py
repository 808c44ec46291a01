"""Progress of long work: its name, how much is done, and the total (None: unknown)."""

from collections.abc import Callable

Report = Callable[[str, int, int | None], None]
