"""The requests and results that the two contexts exchange, independent of their encoding.

Only the standard library, so that both models may import it.
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
    """Why a stay cannot be held; the message of a FAILURE begins with it, as in `SOLD_OUT: …`.

    Where several apply, the first in this order is given; `domain/rooms/nights.py` explains the order.
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
    """A request of the reservations to the rooms."""

    kind: RequestKind
    reservation_id: int
    room_id: int
    stay: Stay
    message_id: UUID
    traceparent: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RoomResult:
    """The rooms' answer; `message` is empty unless the status is FAILURE."""

    reservation_id: int
    status: Answer
    message: str
    message_id: UUID
    traceparent: str | None = field(default=None, compare=False)
