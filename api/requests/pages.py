"""Pages of a list: how long they are, and the cursor that names where one ended.

A cursor is valid only for the list that it came from: it carries a digest of the filters. A page stays
what it is while rows are added, because the cursor names a row and not a number of rows.
"""

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated
from urllib.parse import urlencode

from litestar.params import QueryParameter

from api.problems import Invalid
from api.requests.bodies import ID_MAX

PAGE_SIZE = 20

_ID_BYTES, _DIGEST_BYTES = 8, 10

Limit = Annotated[
    int | None, QueryParameter(ge=1, description=f"How many at most; the default is {PAGE_SIZE}.")
]
Cursor = Annotated[
    str | None, QueryParameter(description="`next` of the page before, with the same filters.")
]


def page_size(limit: int | None, page_size_max: int) -> int:
    if limit is None:
        return min(PAGE_SIZE, page_size_max)
    if limit > page_size_max:
        raise Invalid(f"a page has at most {page_size_max}", parameter="limit")
    return limit


def cursor(last_id: int, *asked: object) -> str:
    """Name the row that ended a page of the list that was asked for."""
    return base64.urlsafe_b64encode(_sealed(last_id, asked)).decode()


def following(ids: Sequence[int], size: int, *asked: object) -> str | None:
    """Name where this page ends, if there is a next one: of all that was found, one more than fits."""
    return cursor(ids[size - 1], *asked) if len(ids) > size else None


def after(cursor: str | None, *asked: object) -> int | None:
    """Return the id that ended the last page; raises `Invalid`, also for a cursor of another list."""
    if cursor is None:
        return None
    try:
        sealed = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except ValueError as error:
        raise Invalid("not a valid cursor", parameter="cursor") from error
    last_id = int.from_bytes(sealed[:_ID_BYTES])
    if not 0 < last_id <= ID_MAX or sealed != _sealed(last_id, asked):
        raise Invalid(
            "not a cursor of this list; keep the filters of the first page", parameter="cursor"
        )
    return last_id


def next_link(path: str, parameters: list[tuple[str, str]], cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    kept = [(name, value) for name, value in parameters if name != "cursor"]
    return {"Link": f'<{path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}


def _sealed(last_id: int, asked: tuple[object, ...]) -> bytes:
    """It holds no secret: a forged cursor shows what the caller may see, from another row on."""
    place = last_id.to_bytes(_ID_BYTES)
    return place + sha256(place + repr(asked).encode()).digest()[:_DIGEST_BYTES]
