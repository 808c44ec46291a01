"""Changing rooms and their calendars: needs the scope `inventory`.

What is answered 2xx is committed, with its idempotency key. Values are absolute, so a request may be
repeated without one, too, as long as nobody else has changed the same in between.
"""

import msgspec
from litestar import Response, put
from litestar.di import NamedDependency
from litestar.params import JSONBody

from api.identity.auth import INVENTORY, MemberRequest, needs
from api.problems import OF_A_BODY, DomainRefusal, problem_responses
from api.requests.bodies import Strict
from api.requests.idempotency import REPEATED, Key, is_repeat, keyed_request
from api.rooms.deps import Dependencies, RoomId
from api.rooms.views import NewName, Nights, NightsView, RoomView
from domain.idempotency import ROOM_KEYS
from domain.rooms import directory
from domain.rooms.calendar import change_nights
from domain.rooms.change import NightsSet, nights_of

_WRITTEN = ("SCOPE_MISSING", "OUTCOME_UNKNOWN", "NOT_FOUND", *OF_A_BODY)
_KEYED = ("IDEMPOTENCY_KEY_IN_FLIGHT", "IDEMPOTENCY_KEY_REUSED")


@put(
    "/{room_id:int}",
    operation_id="nameRoom",
    summary="Name a room, or make it",
    **needs(INVENTORY),
    responses=problem_responses(*_WRITTEN, *_KEYED),
    dto=Strict[NewName],
    return_dto=None,
    sync_to_thread=True,
)
def name_room(
    room_id: RoomId,
    data: JSONBody[NewName],
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    idempotency_key: Key = None,
) -> Response[RoomView]:
    asked = b"room %d " % room_id + msgspec.json.encode(data)
    keyed = keyed_request(request.user.id, idempotency_key, asked)
    with deps.engine.begin() as connection:
        if is_repeat(connection, ROOM_KEYS, keyed):
            return Response(RoomView(room_id, data.name), headers=REPEATED)
        return Response(RoomView.of(directory.name_room(connection, room_id, data.name)))


@put(
    "/{room_id:int}/nights",
    operation_id="setNights",
    summary="Open nights, or change how many rooms they have and which rules",
    **needs(INVENTORY),
    responses=problem_responses(
        *_WRITTEN,
        "CAPACITY_BELOW_TAKEN",
        "NIGHT_WITHOUT_CAPACITY",
        "INVALID_RANGE",
        *_KEYED,
    ),
    dto=Strict[Nights],
    return_dto=None,
    sync_to_thread=True,
)
def set_nights(
    room_id: RoomId,
    data: JSONBody[Nights],
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    idempotency_key: Key = None,
) -> Response[NightsView]:
    """All of the nights or none. Makes the room if it is new."""
    change = data.change(room_id, nights_of(data.from_, data.to, data.weekdays))
    asked = b"nights %d " % room_id + msgspec.json.encode(data)
    keyed = keyed_request(request.user.id, idempotency_key, asked)
    with deps.engine.begin() as connection:
        if is_repeat(connection, ROOM_KEYS, keyed):
            return Response(NightsView(room_id, len(change.nights)), headers=REPEATED)
        [outcome] = change_nights(connection, [change])
        if not isinstance(outcome, NightsSet):
            raise DomainRefusal(outcome)
        return Response(NightsView(room_id, outcome.count))
