"""The messages between the two contexts, byte for byte.

Services in other languages read and write them too: the fields of a value and their order are fixed,
and metadata stays out of it. A value that cannot be decoded raises PoisonMessage and nothing else, so
a reader can make it a dead letter and go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import partial
from typing import Annotated, Final, TypeVar
from uuid import UUID, uuid4

import msgspec

from domain.answers import MESSAGE_LENGTH_MAX, Answer, RequestKind, RoomRequest, RoomResult
from domain.stay import InvalidStay, Stay

ROOM_RESERVE: Final = "room-reserve"
ROOM_CANCEL: Final = "room-cancel"
RESERVATION_RESULT: Final = "reservation-result"
TOPICS: Final = (ROOM_RESERVE, ROOM_CANCEL, RESERVATION_RESULT)

ROOMS_GROUP: Final = "reservation-group"
RESULTS_GROUP: Final = "result-group"

RESERVATIONS_SOURCE: Final = "/innbox/reservations"
ROOMS_SOURCE: Final = "/innbox/rooms"

VALUE_BYTES_MAX: Final = 65_536
_REASON_LENGTH_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as the outbox takes it: the sealed value, and where it goes."""

    message_id: UUID
    topic: str
    key: str
    type: str
    source: str
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class PoisonReason(StrEnum):
    NO_VALUE = "NO_VALUE"
    TOO_LARGE = "TOO_LARGE"
    NOT_JSON = "NOT_JSON"
    WRONG_SHAPE = "WRONG_SHAPE"
    IMPOSSIBLE_STAY = "IMPOSSIBLE_STAY"


class PoisonMessage(ValueError):
    """A message that can never succeed, however often it is read."""

    def __init__(self, code: PoisonReason, detail: str) -> None:
        # The detail may quote the sender: bounded, and printable because Postgres stores no NUL.
        printable = "".join(letter if letter.isprintable() else "?" for letter in detail)
        self.reason = f"{code}: {printable}"[:_REASON_LENGTH_MAX]
        super().__init__(self.reason)


def _room_request(
    topic: str, reservation_id: int, room_id: int, stay: Stay, message_id: UUID | None = None
) -> Envelope:
    value = _StayValue(reservation_id, room_id, stay.check_in, stay.check_out)
    return _envelope(topic, room_id, value, message_id)


room_reserve = partial(_room_request, ROOM_RESERVE)
room_cancel = partial(_room_request, ROOM_CANCEL)


def reservation_result(
    reservation_id: int, answer: Answer, message: str, message_id: UUID | None = None
) -> Envelope:
    value = _ResultValue(reservation_id, answer, message)
    return _envelope(RESERVATION_RESULT, reservation_id, value, message_id)


@dataclass(frozen=True, slots=True)
class MessageTemplate:
    """A message whose reservation has no id yet: it belongs between `head` and `tail` of the value.

    The envelope has the largest id there can be, so the value will be no longer than it is there.
    """

    envelope: Envelope
    head: bytes
    tail: bytes


def room_reserve_template(room_id: int, stay: Stay, message_id: UUID) -> MessageTemplate:
    """Return what `room_reserve` will be, for a statement that draws the id and appends at once."""
    envelope = room_reserve(_ID_MAX, room_id, stay, message_id)
    # The first one: the room's id may have the same digits.
    head, _, tail = envelope.value.partition(b"%d" % _ID_MAX)
    return MessageTemplate(envelope, head, tail)


def decode_room_request(
    topic: str, value: bytes | None, message_id: UUID, traceparent: str | None = None
) -> RoomRequest:
    """Decode a value of ROOM_RESERVE or ROOM_CANCEL; raises PoisonMessage and nothing else."""
    kind = _KINDS[topic]
    read = _decoded(_STAY_DECODER, value)
    try:
        stay = Stay(read.check_in_date, read.check_out_date)
    except InvalidStay as invalid:
        raise PoisonMessage(PoisonReason.IMPOSSIBLE_STAY, str(invalid)) from invalid

    return RoomRequest(kind, read.reservation_id, read.room_id, stay, message_id, traceparent)


def decode_result(
    value: bytes | None, message_id: UUID, traceparent: str | None = None
) -> RoomResult:
    """Decode a value of RESERVATION_RESULT; raises PoisonMessage and nothing else."""
    read = _decoded(_RESULT_DECODER, value)
    if "\0" in read.message:
        raise PoisonMessage(PoisonReason.WRONG_SHAPE, "NUL in the message")

    return RoomResult(read.reservation_id, read.status, read.message, message_id, traceparent)


_ID_MAX: Final = 2**63 - 1
_Id = Annotated[int, msgspec.Meta(ge=1, le=_ID_MAX)]
_Message = Annotated[str, msgspec.Meta(max_length=MESSAGE_LENGTH_MAX)]


class _StayValue(msgspec.Struct, rename="camel"):
    reservation_id: _Id
    room_id: _Id
    check_in_date: date
    check_out_date: date


class _ResultValue(msgspec.Struct, rename="camel"):
    reservation_id: _Id
    status: Answer
    message: _Message


_TYPES: Final = {
    ROOM_RESERVE: ("innbox.room.reserve.v1", RESERVATIONS_SOURCE),
    ROOM_CANCEL: ("innbox.room.cancel.v1", RESERVATIONS_SOURCE),
    RESERVATION_RESULT: ("innbox.reservation.result.v1", ROOMS_SOURCE),
}
_KINDS: Final = {ROOM_RESERVE: RequestKind.RESERVE, ROOM_CANCEL: RequestKind.CANCEL}
_ENCODER: Final = msgspec.json.Encoder()
_STAY_DECODER: Final = msgspec.json.Decoder(_StayValue)
_RESULT_DECODER: Final = msgspec.json.Decoder(_ResultValue)
_Value = TypeVar("_Value", _StayValue, _ResultValue)


def _envelope(
    topic: str, key: int, value: _StayValue | _ResultValue, message_id: UUID | None
) -> Envelope:
    type_, source = _TYPES[topic]
    return Envelope(message_id or uuid4(), topic, str(key), type_, source, _ENCODER.encode(value))


def _decoded(decoder: msgspec.json.Decoder[_Value], value: bytes | None) -> _Value:
    if value is None:
        raise PoisonMessage(PoisonReason.NO_VALUE, "the record has no value")
    if len(value) > VALUE_BYTES_MAX:
        raise PoisonMessage(PoisonReason.TOO_LARGE, f"{len(value)} bytes")

    try:
        return decoder.decode(value)
    except msgspec.ValidationError as invalid:
        raise PoisonMessage(PoisonReason.WRONG_SHAPE, str(invalid)) from invalid
    except (ValueError, RecursionError) as unreadable:  # nested too deeply: a RecursionError
        raise PoisonMessage(PoisonReason.NOT_JSON, str(unreadable)) from unreadable
