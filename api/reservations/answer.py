"""The answer to a reserve or a cancel: 202 until the rooms have answered, 200 once the saga has ended."""

from litestar import Response
from litestar.openapi.datastructures import ResponseSpec

from api.requests.conditions import etag, wait_s
from api.requests.idempotency import REPEATED
from api.reservations.deps import Dependencies
from api.reservations.views import ReservationView

ENDED = {
    200: ResponseSpec(ReservationView, generate_examples=False, description="The saga has ended")
}


async def answer(
    deps: Dependencies, view: ReservationView, prefer: str | None, *, is_repeat: bool
) -> Response[ReservationView]:
    headers = {"Location": f"/v1/reservations/{view.id}"}
    if is_repeat:
        headers |= REPEATED
    if (seconds := wait_s(prefer, deps.settings.wait_s_max)) is not None:
        headers["Preference-Applied"] = f"wait={seconds:g}"
        if latest := await deps.watchers.ended(view.id, seconds):
            view = ReservationView.of(latest)
    headers["ETag"] = etag(view.version)
    return Response(view, status_code=202 if view.status.open else 200, headers=headers)
