"""What a command says to the person who runs it: how far it is, and why it cannot be carried out."""

from collections.abc import Callable

# What is being done, how much of it is done, and of how much in all (None: unknown).
Report = Callable[[str, int, int | None], None]


class CommandError(Exception):
    """A message for the person at the terminal, which says what to do next."""
