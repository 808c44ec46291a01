"""What the routes of rooms work with."""

from dataclasses import dataclass

from sqlalchemy import Engine


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The rooms' database, to write and to read alone, and the bounds."""

    engine: Engine
    reading: Engine
    page_size_max: int
