"""Messages that can never succeed, and the dead letters that they become."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from uuid import UUID

from sqlalchemy import Connection, Engine

from consumers import dead_letters
from consumers.dead_letters import DeadLetter
from consumers.rooms import RoomsHandler
from domain.answers import RoomRequest
from domain.messages import ROOM_RESERVE
from innbox_process.records import Record

THIRTEEN = 13

_offsets = count(1_000)


class Cursed(RoomsHandler):
    """Fails whatever batch the thirteenth reservation is in, and remembers what it applied."""

    def __init__(self, curse: Callable[[], Exception]) -> None:
        self.curse = curse
        self.tried = 0
        self.applied: list[int] = []

    def apply(self, connection: Connection, requests: Sequence[RoomRequest]) -> Mapping[UUID, str]:
        ids = [request.reservation_id for request in requests]
        self.tried += ids == [THIRTEEN]
        super().apply(connection, requests)
        if THIRTEEN in ids:
            raise self.curse()
        self.applied += ids
        return {}


def garbage(value: bytes | None, headers: dict[str, str] | None = None) -> Record:
    return Record(ROOM_RESERVE, 2, next(_offsets), b"7", value, headers or {})


def open_letters(engine: Engine, group: str | None = None) -> list[DeadLetter]:
    with engine.connect() as connection:
        return dead_letters.open_letters(connection, group=group)
