"""Lists of reservations: one's own, and for the staff everybody's."""

from datetime import date
from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from api.identity.auth import MemberRequest, ScopeMissing, needs
from api.identity.scopes import READ, STAFF
from api.identity.tokens import Member
from api.requests import pages
from api.requests.bodies import ID_MAX
from api.requests.pages import Cursor, Limit
from api.reservations.access import member_connection
from api.reservations.deps import Dependencies
from api.reservations.views import ReservationPage, ReservationView
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
    whose = _whose(request.user, member_id)
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


def _whose(member: Member, asked_for: int | None) -> int | None:
    """Say whose reservations are meant, None being everybody's; raises `ScopeMissing`."""
    if member.is_staff:
        return asked_for
    if asked_for not in {None, member.id}:
        raise ScopeMissing(STAFF)
    return member.id
