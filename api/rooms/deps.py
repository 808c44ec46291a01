"""What the routes of rooms work with."""

from dataclasses import dataclass
from typing import Annotated

from litestar.params import PathParameter
from sqlalchemy import Engine

from api.requests.bodies import ID_MAX

RoomId = Annotated[int, PathParameter(ge=1, le=ID_MAX)]


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The rooms' database, to write and to read alone, and the bounds."""

    engine: Engine
    reading: Engine
    page_size_max: int
