"""Looking at reservations: a member sees their own only; others are not there for them."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from api.auth import MemberRequest
from api.problems import Missing, documented
from api.reservations.desk import Desk, ReservationId
from api.reservations.views import ReservationPage, ReservationView, after, page_size
from domain.reservations import store


@get(
    "/",
    operation_id="listReservations",
    summary="List one's own, newest first",
    responses=documented(),
    sync_to_thread=True,
)
def list_own(
    request: MemberRequest,
    desk: NamedDependency[Desk],
    limit: Annotated[int | None, QueryParameter(ge=1, description="20 unless told")] = None,
    cursor: FromQuery[str | None] = None,
) -> ReservationPage:
    """A page stays what it is while reservations are added: the cursor names where it ended."""
    size = page_size(limit, desk.page_size_max)
    with desk.reading.connect() as connection:
        found = store.list_of_member(connection, request.user.id, after(cursor), size + 1)
    return ReservationPage.of(found, size)


@get(
    "/{reservation_id:int}",
    operation_id="getReservation",
    summary="Look at one's own",
    responses=documented(404),
    sync_to_thread=True,
)
def read(
    reservation_id: ReservationId, request: MemberRequest, desk: NamedDependency[Desk]
) -> ReservationView:
    with desk.reading.connect() as connection:
        reservation = store.get(connection, reservation_id, request.user.id)
    if reservation is None:
        raise Missing
    return ReservationView.of(reservation)
