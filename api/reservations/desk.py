"""What the routes of reservations work with."""

from dataclasses import dataclass
from typing import Annotated

from litestar.params import PathParameter
from sqlalchemy import Engine

from api.bodies import ID_MAX
from api.waiting import Waiters

ReservationId = Annotated[int, PathParameter(ge=1, le=ID_MAX)]


@dataclass(frozen=True, slots=True)
class Desk:
    """The reservations' database, those who wait, and the bounds."""

    engine: Engine
    reading: Engine
    waiters: Waiters
    nights_max: int
    days_max: int
    page_size_max: int
    wait_s_max: float
