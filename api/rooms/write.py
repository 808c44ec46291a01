"""Changing rooms and their calendars: needs the scope `inventory`.

What is answered 2xx is committed, with its idempotency key. Values are absolute, so a request may be
repeated without one, too, as long as nobody else has changed the same in between.
"""

import msgspec
from litestar import Response, put
from litestar.di import NamedDependency
from litestar.params import JSONBody

from api.identity.auth import MemberRequest, needs
from api.identity.scopes import INVENTORY
from api.problems import OF_A_BODY, OF_A_CHANGE, refused
from api.requests.bodies import IdInPath, Strict
from api.requests.idempotency import REPEATED, Key, is_repeat, keyed_request
from api.rooms.deps import Dependencies
from api.rooms.views import NewName, Nights, NightsView, RoomView
from domain.idempotency import ROOM_KEYS
from domain.rooms import directory
from domain.rooms.calendar import change_nights
from domain.rooms.change import NightsSet, nights_of

_WRITTEN = ("NOT_FOUND", *OF_A_BODY, *OF_A_CHANGE)
_NIGHTS = ("CAPACITY_BELOW_TAKEN", "NIGHT_WITHOUT_CAPACITY", "INVALID_RANGE")


@put(
    "/{room_id:int}",
    operation_id="nameRoom",
    summary="Name a room, or make it",
    **needs(INVENTORY, *_WRITTEN),
    dto=Strict[NewName],
    return_dto=None,
    sync_to_thread=True,
)
def name_room(
    room_id: IdInPath,
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
    **needs(INVENTORY, *_WRITTEN, *_NIGHTS),
    dto=Strict[Nights],
    return_dto=None,
    sync_to_thread=True,
)
def set_nights(
    room_id: IdInPath,
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
            raise refused(outcome)
        return Response(NightsView(room_id, outcome.count))
