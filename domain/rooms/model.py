"""How the rooms decide: requests in, allocations, room nights and answers out.

    request, allocation    none             HELD          REFUSED       RELEASED
    reserve                HELD, SUCCESS    SUCCESS (*)   FAILURE (*)   CANCEL
                           or REFUSED,
                           FAILURE
    cancel                 RELEASED,        RELEASED,     RELEASED,     CANCEL (*)
                           CANCEL           CANCEL        CANCEL

    (*) a repeated answer if another message asks; nothing for the message that decided.

A stay is held on all of its nights or on none. `taken` of a night is the number of HELD
allocations that cover it. One reservation has one effect, however often its messages arrive and
whichever of reserve and cancel comes first.

The allocation decides: a second reserve, or a cancel, that names another room or stay changes
neither. A cancel gives back the nights that were taken, not those it names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from domain.answers import Answer, ReasonCode, RequestKind, RoomRequest
from domain.rooms.nights import Held, NightKey, Refused, RoomNight, hold
from domain.stay import Stay


class State(StrEnum):
    HELD = "HELD"
    REFUSED = "REFUSED"
    RELEASED = "RELEASED"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a reservation holds, was refused, or has given back; never deleted."""

    reservation_id: int
    room_id: int
    stay: Stay
    state: State
    reason: str | None
    reserve_message_id: UUID | None
    cancel_message_id: UUID | None

    @property
    def night_keys(self) -> list[NightKey]:
        return [(self.room_id, night) for night in self.stay.nights]


@dataclass(frozen=True, slots=True)
class Rooms:
    """The allocations and nights that a batch may change, as they were when locked."""

    allocations: Mapping[int, Allocation]
    nights: Mapping[NightKey, RoomNight]
    known_rooms: frozenset[int]


@dataclass(frozen=True, slots=True)
class Result:
    """An answer to append; its message is empty unless it is a FAILURE."""

    reservation_id: int
    answer: Answer
    message: str = ""
    # The answered request: for the headers, and no part of the decision.
    request: RoomRequest | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a batch changes: each allocation and night once, in its final shape."""

    created: tuple[Allocation, ...]
    changed: tuple[Allocation, ...]
    nights: tuple[RoomNight, ...]
    results: tuple[Result, ...]


def touched(
    allocations: Mapping[int, Allocation], requests: Iterable[RoomRequest]
) -> list[NightKey]:
    """Return every night that `decide` may read or write for these requests, in locking order."""
    keys: set[NightKey] = set()
    for request in requests:
        known = allocations.get(request.reservation_id)
        if known is None and request.kind is RequestKind.RESERVE:
            keys.update(_keys(request))
        elif known and known.state is State.HELD and request.kind is RequestKind.CANCEL:
            keys.update(known.night_keys)

    return sorted(keys)


def decide(rooms: Rooms, requests: Iterable[RoomRequest]) -> Outcome:
    """Apply requests in message order, each on the result of those before it."""
    batch = _Batch(rooms)
    for request in requests:
        if request.kind is RequestKind.RESERVE:
            batch.reserve(request)
        else:
            batch.cancel(request)

    return batch.outcome()


@dataclass(slots=True)
class _Batch:
    """The rooms while a batch is decided: the changes, over the state that was locked."""

    rooms: Rooms
    allocations: dict[int, Allocation] = field(default_factory=dict)
    nights: dict[NightKey, RoomNight] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def reserve(self, request: RoomRequest) -> None:
        known = self._allocation(request.reservation_id)
        if known is None:
            known = self._allocate(request)
        elif known.state is not State.RELEASED and known.reserve_message_id == request.message_id:
            return

        message = known.reason or "" if known.state is State.REFUSED else ""
        self.results.append(Result(request.reservation_id, _ANSWERS[known.state], message, request))

    def cancel(self, request: RoomRequest) -> None:
        known = self._allocation(request.reservation_id)
        if known is None:
            # A tombstone: a reserve that comes after its cancel will hold nothing.
            self._keep(_allocation(request, State.RELEASED))
        elif known.state is not State.RELEASED:
            self._release(known, request.message_id)
        elif known.cancel_message_id == request.message_id:
            return

        self.results.append(Result(request.reservation_id, Answer.CANCEL, request=request))

    def outcome(self) -> Outcome:
        before, allocations = self.rooms, self.allocations.items()
        return Outcome(
            created=tuple(new for id_, new in allocations if id_ not in before.allocations),
            changed=tuple(new for id_, new in allocations if id_ in before.allocations),
            nights=tuple(new for key, new in self.nights.items() if new != before.nights[key]),
            results=tuple(self.results),
        )

    def _allocate(self, request: RoomRequest) -> Allocation:
        match self._hold(request):
            case Held(nights):
                self.nights.update((night.key, night) for night in nights)
                return self._keep(_allocation(request, State.HELD))
            case Refused() as refused:
                return self._keep(_allocation(request, State.REFUSED, refused.message))

    def _hold(self, request: RoomRequest) -> Held | Refused:
        if request.room_id not in self.rooms.known_rooms:
            return Refused(ReasonCode.UNKNOWN_ROOM)

        found = [night for key in _keys(request) if (night := self._night(key))]
        return hold(found, request.stay)

    def _release(self, known: Allocation, message_id: UUID) -> None:
        if known.state is State.HELD:
            # Every night exists: a night may be set to no capacity, but is never deleted.
            for key in known.night_keys:
                self.nights[key] = (self.nights.get(key) or self.rooms.nights[key]).given_back()

        self._keep(replace(known, state=State.RELEASED, cancel_message_id=message_id))

    def _keep(self, allocation: Allocation) -> Allocation:
        self.allocations[allocation.reservation_id] = allocation
        return allocation

    def _allocation(self, reservation_id: int) -> Allocation | None:
        return self.allocations.get(reservation_id) or self.rooms.allocations.get(reservation_id)

    def _night(self, key: NightKey) -> RoomNight | None:
        return self.nights.get(key) or self.rooms.nights.get(key)


def _keys(request: RoomRequest) -> list[NightKey]:
    """Return what `hold` reads: the nights of the stay, and the day of check-out for its rule."""
    stay = request.stay
    return [(request.room_id, night) for night in (*stay.nights, stay.check_out)]


def _allocation(request: RoomRequest, state: State, reason: str | None = None) -> Allocation:
    is_reserve = request.kind is RequestKind.RESERVE
    reserve_id = request.message_id if is_reserve else None
    cancel_id = None if is_reserve else request.message_id
    return Allocation(
        request.reservation_id, request.room_id, request.stay, state, reason, reserve_id, cancel_id
    )


_ANSWERS = {
    State.HELD: Answer.SUCCESS,
    State.REFUSED: Answer.FAILURE,
    State.RELEASED: Answer.CANCEL,
}
