"""The rooms consumer: applies requests to the inventory, and answers through the outbox."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection

import outbox
from domain import messages
from domain.answers import RoomRequest
from domain.messages import Envelope
from domain.rooms import store
from domain.rooms.model import Result, decide
from innbox_process.records import Record
from runtime.traces import valid


class RoomsHandler:
    """Decides in message order and writes in sets."""

    group = messages.ROOMS_GROUP
    topics = (messages.ROOM_RESERVE, messages.ROOM_CANCEL)

    def decode(self, record: Record) -> RoomRequest:
        return messages.decode_room_request(
            record.topic, record.value, record.message_id, valid(record.headers.get("traceparent"))
        )

    def apply(self, connection: Connection, requests: Sequence[RoomRequest]) -> Mapping[UUID, str]:
        """Apply requests to allocations and room nights; append one result each."""
        rooms = store.lock(connection, requests)
        outcome = decide(rooms, requests)
        store.save(connection, outcome)
        outbox.append(connection, [_envelope(result) for result in outcome.results])
        return {}

    def committed(self, requests: Sequence[RoomRequest]) -> None:
        """Nothing to wake: the outbox has a doorbell of its own."""


def _envelope(result: Result) -> Envelope:
    """Build the result, with the headers that link it to its request: causation id and trace."""
    answer = messages.reservation_result(result.reservation_id, result.answer, result.message)
    request = result.request
    if request is None:
        return answer
    headers = {"ce_causationid": str(request.message_id)}
    if request.traceparent:
        headers["traceparent"] = request.traceparent
    return replace(answer, headers=headers)
