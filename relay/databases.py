"""A database with an outbox, and what a person calls it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Database:
    """One database. It may have several names, where several parts of a system live in it."""

    names: tuple[str, ...]
    url: str = field(repr=False)

    @property
    def name(self) -> str:
        return " and ".join(self.names)
