"""Server-sent events: each transition of a reservation, as it happens.

A stream sends what is after `Last-Event-ID`, then what comes. An event's id is the version it brought,
so a client that reconnects goes on where it was. It ends with a status that is final, with the token
that it was opened with, and when the process stops. In between it is a coroutine that waits: no thread,
no database connection. What comes is told by `watchers`, with one read for all streams that it concerns.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any
from weakref import finalize

import msgspec
import structlog
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter
from litestar.response import Stream
from litestar.status_codes import HTTP_204_NO_CONTENT

from api.identity.auth import MemberRequest, needs
from api.identity.row_security import set_member_statement
from api.identity.scopes import READ
from api.identity.tokens import Member
from api.problems import Invalid, NotFound
from api.requests.bodies import IdInPath
from api.reservations.access import database_member
from api.reservations.deps import Dependencies
from api.reservations.views import TransitionView
from api.reservations.watchers import Subscription
from domain.reservations import reading, store
from domain.reservations.model import Reservation, Transition

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 2_000
VERSION_MAX = 2**31 - 1

OVER = ResponseSpec(
    None, generate_examples=False, description="The stream is complete: do not connect again"
)
# A comment and the hint need no empty line after them, which some readers take for an event's end.
_HEARTBEAT = b": still here\n"
# A proxy that buffers or caches responses would delay the events.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_log = structlog.get_logger(__name__)

LastEventId = Annotated[
    int,
    HeaderParameter(
        name="Last-Event-ID",
        ge=0,
        le=VERSION_MAX,
        description="The id of the last event that was received; what is after it is sent.",
    ),
]


@get(
    "/{reservation_id:int}/events",
    operation_id="followReservation",
    summary="Follow a reservation",
    **needs(READ, "NOT_FOUND", "TOO_MANY_STREAMS", also={204: OVER}),
    media_type=MEDIA_TYPE,
)
async def follow(
    reservation_id: IdInPath,
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    last_event_id: LastEventId = 0,
) -> Response[Any]:
    """Server-sent events named `transition`; the `data` of each is an item of the history.

    They begin with the first transition, or after `Last-Event-ID`. The stream ends after a status that is
    final, and with the token; comments keep it alive.
    """
    reservation, past = await _found(deps, request.user, reservation_id, last_event_id)
    if last_event_id > reservation.version:
        raise Invalid("no event has had this id yet", header="Last-Event-ID")
    if reservation.status.final and last_event_id == reservation.version:
        return Response(None, status_code=HTTP_204_NO_CONTENT)
    slot = deps.streams.take(request.user.id)
    watching = deps.watchers.subscribed(reservation_id, last_event_id)
    subscription = slot.enter_context(watching)
    for transition in past:
        subscription.tell(transition)
    events = _events(deps, request.user, slot, subscription)
    return Stream(placed(events, slot), media_type=MEDIA_TYPE, headers=_HEADERS)


def placed(events: AsyncIterator[bytes], slot: ExitStack) -> AsyncIterator[bytes]:
    """Return the stream; what its slot holds is given back also if it is thrown away before it has begun.

    A generator that is never begun never comes to its `finally`.
    """
    finalize(events, slot.close)
    return events


async def _found(
    deps: Dependencies, member: Member, reservation_id: int, version: int
) -> tuple[Reservation, list[Transition]]:
    """Read a reservation that this member may see, and its transitions after a version.

    Raises `NotFound`, also for another member's.
    """
    _, rows, past = await deps.reads.execute(
        [
            set_member_statement(database_member(member)),
            store.one(reservation_id, None if member.is_staff else member.id),
            reading.since({reservation_id: version}),
        ]
    )
    if not rows:
        raise NotFound
    return store.of_row(rows[0]), reading.transitions(past)


async def _events(
    deps: Dependencies, member: Member, slot: ExitStack, subscription: Subscription
) -> AsyncIterator[bytes]:
    now = asyncio.get_running_loop().time
    ends_at = now() + member.expires_at - time.time()
    heartbeat_s = deps.settings.heartbeat_s
    with slot:
        yield b"retry: %d\n" % RETRY_MS
        while not deps.watchers.closing:
            for transition in subscription.take():
                yield _event(transition)
                if transition.status.final:
                    return
            while now() < ends_at:
                if await subscription.heard(min(ends_at, now() + heartbeat_s)):
                    break
                yield _HEARTBEAT
            if now() >= ends_at:
                return
            if error := subscription.failure:  # the head is sent, so nobody else can answer it
                reservation_id = subscription.reservation_id
                _log.error("event stream failed", reservation_id=reservation_id, exc_info=error)
                return


def _event(transition: Transition) -> bytes:
    data = msgspec.json.encode(TransitionView.of(transition))  # in one line
    return b"id: %d\nevent: transition\ndata: %b\n\n" % (transition.version, data)
