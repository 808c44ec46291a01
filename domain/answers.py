"""What the two contexts ask and answer each other, free of how it is written on the wire.

Only the standard library, so that both models may speak of it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from domain.stay import Stay

# A bound on the text of an answer: it becomes a column and a response.
MESSAGE_LENGTH_MAX = 1_000


class RequestKind(StrEnum):
    RESERVE = "RESERVE"
    CANCEL = "CANCEL"


class Answer(StrEnum):
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCEL = "CANCEL"


class ReasonCode(StrEnum):
    """Why a room cannot be had; it opens the message of a FAILURE, as in `SOLD_OUT: …`.

    Where several apply, the first of them in this order is said; `domain/rooms/nights.py` says why.
    """

    UNKNOWN_ROOM = "UNKNOWN_ROOM"
    NIGHT_NOT_OPEN = "NIGHT_NOT_OPEN"
    CLOSED = "CLOSED"
    CLOSED_TO_ARRIVAL = "CLOSED_TO_ARRIVAL"
    CLOSED_TO_DEPARTURE = "CLOSED_TO_DEPARTURE"
    MIN_STAY = "MIN_STAY"
    SOLD_OUT = "SOLD_OUT"


@dataclass(frozen=True, slots=True)
class RoomRequest:
    """What the reservations ask of the rooms."""

    kind: RequestKind
    reservation_id: int
    room_id: int
    stay: Stay
    message_id: UUID
    traceparent: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RoomResult:
    """What the rooms answer; `message` is empty unless the status is FAILURE."""

    reservation_id: int
    status: Answer
    message: str
    message_id: UUID
    traceparent: str | None = field(default=None, compare=False)
