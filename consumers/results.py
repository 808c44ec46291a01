"""The results consumer: the rooms' answers settle the reservations, and wake who waits for them."""

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection

from consumers.records import Record
from domain import messages
from domain.answers import RoomResult
from domain.reservations import store
from domain.reservations.model import ROOMS, Cause, Contradiction, Reservation, settle
from outbox import Doorbell
from runtime.traces import trace_id, valid


class ResultsHandler:
    """Settles each reservation by its answers, in their order."""

    group = messages.RESULTS_GROUP
    topics = (messages.RESERVATION_RESULT,)

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell

    def decode(self, record: Record) -> RoomResult:
        return messages.decode_result(
            record.value, record.message_id, valid(record.headers.get("traceparent"))
        )

    def apply(self, connection: Connection, results: Sequence[RoomResult]) -> Mapping[UUID, str]:
        """Settle what the results decide; returns those that contradict or fit no reservation."""
        known = store.lock(connection, {result.reservation_id for result in results})
        problems: dict[UUID, str] = {}
        for wave in _waves(results):
            changed: list[tuple[Reservation, Cause]] = []
            for result in wave:
                match _settled(known, result):
                    case Reservation() as settled:
                        known[settled.id] = settled
                        changed.append((settled, _cause(result)))
                    case str() as problem:
                        problems[result.message_id] = problem
            store.save_transitions(connection, changed)
        return problems

    def committed(self, results: Sequence[RoomResult]) -> None:
        self._doorbell.ring(result.reservation_id for result in results)


def _settled(known: Mapping[int, Reservation], result: RoomResult) -> Reservation | str | None:
    """Return the settled reservation, a problem for a person, or None where nothing changes."""
    if (reservation := known.get(result.reservation_id)) is None:
        return f"UNKNOWN_RESERVATION: {result.reservation_id}"
    match settle(reservation, result):
        case Reservation() as settled:
            return settled
        case Contradiction(code=code):
            return f"{code}: {result.status} for a reservation that is {reservation.status}"
    return None


def _cause(result: RoomResult) -> Cause:
    trace = result.traceparent
    return Cause(result.message_id, ROOMS, trace_id(trace) if trace else None)


def _waves(results: Sequence[RoomResult]) -> Iterator[list[RoomResult]]:
    """Cut results into runs with at most one for each reservation, so that each can be one write."""
    wave: dict[int, RoomResult] = {}
    for result in results:
        if result.reservation_id in wave:
            yield list(wave.values())
            wave = {}
        wave[result.reservation_id] = result
    yield list(wave.values())
