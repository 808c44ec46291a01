"""Looking at one reservation, and at how it came about."""

from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter
from litestar.status_codes import HTTP_304_NOT_MODIFIED

from api.identity.auth import MemberRequest, needs
from api.identity.scopes import READ
from api.requests.bodies import IdInPath
from api.requests.etags import etag, is_known
from api.reservations.access import find, member_connection
from api.reservations.deps import Dependencies
from api.reservations.views import HistoryView, ReservationView, TransitionView
from domain.reservations import reading

IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-None-Match",
        description="ETags of what the caller has: 304 if one of them is current (RFC 9110).",
    ),
]

UNCHANGED = ResponseSpec(None, generate_examples=False, description="The caller has it already")


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
