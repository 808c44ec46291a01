"""What a command says when it cannot be carried out."""


class CommandError(Exception):
    """A message for the person at the terminal, which says what to do next."""
