"""Reservations as members see them, and the cursor that names where a page ended."""

import base64
from datetime import date, datetime

import msgspec

from api.bodies import ID_MAX
from api.problems import Invalid
from domain.reservations.model import Reservation, Status

PAGE_SIZE = 20


class ReservationView(msgspec.Struct, frozen=True, rename="camel"):
    """A reservation; `reason` says why it was rejected."""

    id: int
    room_id: int
    check_in_date: date
    check_out_date: date
    status: Status
    reason: str | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, one: Reservation) -> "ReservationView":
        return cls(
            one.id,
            one.room_id,
            one.stay.check_in,
            one.stay.check_out,
            one.status,
            # Others are notes of ours on how the saga goes.
            one.reason if one.status is Status.REJECTED else None,
            one.version,
            one.created_at,
            one.updated_at,
        )


class ReservationPage(msgspec.Struct, frozen=True):
    """Newest first; `next` is the cursor of the next page, if there is one."""

    items: list[ReservationView]
    next: str | None

    @classmethod
    def of(cls, found: list[Reservation], limit: int) -> "ReservationPage":
        """Make a page of at most `limit`; one more that was found says that there is a next."""
        items = [ReservationView.of(one) for one in found[:limit]]
        return cls(items, _cursor(items[-1].id) if len(found) > limit else None)


def page_size(limit: int | None, page_size_max: int) -> int:
    if limit is None:
        return min(PAGE_SIZE, page_size_max)
    if limit > page_size_max:
        raise Invalid("limit", f"a page has at most {page_size_max} reservations")
    return limit


def after(cursor: str | None) -> int | None:
    """Return the id that ended the last page; raises `Invalid`."""
    if cursor is None:
        return None
    try:
        last_id = int(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except ValueError as error:
        raise Invalid("cursor", "not a cursor of ours") from error
    if not 0 < last_id <= ID_MAX:
        raise Invalid("cursor", "not a cursor of ours")
    return last_id


def _cursor(last_id: int) -> str:
    return base64.urlsafe_b64encode(b"%d" % last_id).decode()
