"""Looking at reservations: lists of them, one, and how it came about."""

from datetime import date
from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.status_codes import HTTP_304_NOT_MODIFIED

from api.identity.auth import MemberRequest, needs
from api.identity.scopes import READ
from api.requests import pages
from api.requests.bodies import ID_MAX, IdInPath
from api.requests.conditions import etag, is_known
from api.requests.pages import Cursor, Limit
from api.reservations.access import find, member_asked_for, member_connection
from api.reservations.deps import Dependencies
from api.reservations.views import HistoryView, ReservationPage, ReservationView, TransitionView
from domain.reservations import reading
from domain.reservations.model import Status
from domain.reservations.reading import Filter

Statuses = Annotated[
    list[Status] | None, QueryParameter(description="One of these; may be repeated.")
]
RoomId = Annotated[int | None, QueryParameter(name="roomId", ge=1, le=ID_MAX)]
CheckInFrom = Annotated[
    date | None, QueryParameter(name="checkInFrom", description="Checks in on that day or later.")
]
CheckInTo = Annotated[
    date | None, QueryParameter(name="checkInTo", description="Checks in before that day.")
]
MemberId = Annotated[
    int | None,
    QueryParameter(
        name="memberId", ge=1, le=ID_MAX, description="For the staff: of this member alone."
    ),
]
IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-None-Match",
        description="ETags of what the caller has: 304 if one of them is current (RFC 9110).",
    ),
]

UNCHANGED = ResponseSpec(None, generate_examples=False, description="The caller has it already")


@get(
    "/",
    operation_id="listReservations",
    summary="List reservations, newest first",
    **needs(READ),
    sync_to_thread=True,
)
def list_some(  # noqa: PLR0913 - a parameter for each filter
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    *,
    status: Statuses = None,
    room_id: RoomId = None,
    check_in_from: CheckInFrom = None,
    check_in_to: CheckInTo = None,
    member_id: MemberId = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> Response[ReservationPage]:
    """One's own, or everybody's with the scope `staff`. Each filter that is given narrows it down.

    A page stays what it is while reservations are added: the cursor names where it ended, and the
    header Link leads on.
    """
    whose = member_asked_for(request.user, member_id)
    if whose is None and not request.user.is_staff:
        whose = request.user.id
    statuses = tuple(sorted(set(status or ())))
    asked = Filter(whose, statuses, room_id, check_in_from, check_in_to)
    after_id = pages.after(cursor, asked)
    size = pages.page_size(limit, deps.settings.page_size_max)
    with member_connection(deps.reading, request.user) as connection:
        # One more than fits tells whether there is a next page.
        found = reading.page(connection, asked, after_id, size + 1)
    items = [ReservationView.of(one) for one in found[:size]]
    following = pages.following([one.id for one in found], size, asked)
    parameters = request.query_params.multi_items()
    link = pages.next_link(request.url.path, list(parameters), following)
    return Response(ReservationPage(items, following), headers=link)


@get(
    "/{reservation_id:int}",
    operation_id="getReservation",
    summary="Look at a reservation",
    **needs(READ, "NOT_FOUND", also={304: UNCHANGED}),
    sync_to_thread=True,
)
def read(
    reservation_id: IdInPath,
    request: MemberRequest,
    deps: NamedDependency[Dependencies],
    if_none_match: IfNoneMatch = None,
) -> Response[ReservationView | None]:
    with member_connection(deps.reading, request.user) as connection:
        found = find(connection, reservation_id, request.user)
    # Not for a cache that others share, and for one's own only if it asks each time.
    headers = {"ETag": etag(found.version), "Cache-Control": "private, no-cache"}
    if is_known(if_none_match, found.version):
        return Response(None, status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(ReservationView.of(found), headers=headers)


@get(
    "/{reservation_id:int}/history",
    operation_id="getHistory",
    summary="Look at how a reservation came about",
    **needs(READ, "NOT_FOUND"),
    sync_to_thread=True,
)
def history(
    reservation_id: IdInPath, request: MemberRequest, deps: NamedDependency[Dependencies]
) -> HistoryView:
    """Each transition: when, by whom, why, and with which message and trace. Oldest first."""
    with member_connection(deps.reading, request.user) as connection:
        find(connection, reservation_id, request.user)
        found = reading.history(connection, reservation_id)
    return HistoryView([TransitionView.of(one) for one in found])
