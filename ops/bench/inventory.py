"""The bulk load over HTTP, and the search over all rooms, in a hotel of a thousand room types.

Nights come in the order of their dates, as in a price list: those of a room are far apart on the disk,
which is the worst order for a search. One in twenty is sold out, some have rules.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import msgspec
from sqlalchemy import Connection, text

from api.identity.scopes import INVENTORY
from api.identity.signing import sign
from domain.rooms.search import SEARCH
from innbox_process.commands import CommandError, reported
from ops.bench.environment import Run, child_of, processes, scratch, session, with_api
from ops.bench.measure import Measured, bounded
from runtime.settings import Settings

OPENS_ON = date(2030, 1, 1)
LENGTHS = (1, 7, 30)
PAGE_SIZE = 100
SEARCHES = 5

_TIMEOUT_S = 600.0
_SELL = text(
    "UPDATE rooms.room_night SET taken = capacity WHERE (room_id + (night - :day)) % 20 = 0"
)
_CLOSE = text("UPDATE rooms.room_night SET closed = true WHERE night = :day")
_OPEN = text("UPDATE rooms.room_night SET closed = false WHERE closed")
_EXPLAIN = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {SEARCH}")


@bounded("--rooms", 1, 10_000, 1_000)
@bounded("--nights", 2, 1_000, 730)
def bench_inventory(run: Run, *, rooms: int, nights: int) -> Measured:
    """Load calendars in bulk over HTTP, each night a line, and search all rooms for a stay.

    There is no baseline. Postgres times the searches: a page of a hundred, and the worst case, in which
    all rooms are read and none is bookable.

    \b
    innbox bench inventory                    about three minutes
    innbox bench inventory --rooms 100 --json
    """
    season = [OPENS_ON + timedelta(days=day) for day in range(nights)]
    figures: dict[str, Any] = {"rooms": rooms, "nights": rooms * nights}
    for kind, (media_type, write) in _FORMATS.items():
        with _served(run.settings, run.logs) as (own, client):
            for what in ("load", "load_again"):
                body = write(rooms, reported(run.report, f"{kind}, {what}", season))
                took_s = _load(client, media_type, body, rooms * nights)
                figures[f"{kind}_{what}_s"] = took_s
                figures[f"{kind}_{what}_nights_per_s"] = rooms * nights / took_s
            if kind == "ndjson":
                with session(own) as connection:
                    figures |= _search(connection, nights)
    return Measured("inventory", figures=figures)


@contextmanager
def _served(settings: Settings, logs: Path) -> Iterator[tuple[Settings, httpx.Client]]:
    """Run the API as it is deployed, on its own database; the client may change the inventory."""
    with scratch(with_api(settings)) as own:
        token = {"Authorization": f"Bearer {sign(own, 1, (INVENTORY,))}"}
        url = f"http://{own.host}:{own.api_port}"
        with (
            processes(own, [child_of(own, logs, "api")]),
            httpx.Client(base_url=url, headers=token, timeout=_TIMEOUT_S) as client,
        ):
            yield own, client


def _load(client: httpx.Client, media_type: str, body: Iterator[bytes], expected: int) -> float:
    """Return the seconds until the last answer; raises `CommandError` unless all lines were applied."""
    began_at = perf_counter()
    headers = {"Content-Type": media_type}
    with client.stream("POST", "/v1/inventory", content=body, headers=headers) as response:
        [last] = deque(response.iter_lines(), maxlen=1)
    if msgspec.json.decode(last).get("applied") != expected:
        raise CommandError(f"not all of {expected:,} lines were applied: {last}")
    return perf_counter() - began_at


def _search(connection: Connection, nights: int) -> dict[str, float]:
    """Time the API's statement in Postgres: a page of all rooms, and a search without a bookable room."""
    connection.execute(_SELL, {"day": OPENS_ON})
    connection.execute(text("VACUUM ANALYZE rooms.room, rooms.room_night"))
    figures = {}
    for length in (length for length in LENGTHS if length < nights):
        name = f"search_{length}_nights"
        figures[f"{name}_page_ms"] = _search_ms(connection, length, bookable=None)
        connection.execute(_CLOSE, {"day": OPENS_ON})
        figures[f"{name}_all_rooms_ms"] = _search_ms(connection, length, bookable=True)
        connection.execute(_OPEN)
    return figures


def _search_ms(connection: Connection, length: int, *, bookable: bool | None) -> float:
    values = {
        "check_in": OPENS_ON,
        "check_out": OPENS_ON + timedelta(days=length),
        "length": length,
        "after": 0,
        "bookable": bookable,
        "limit": PAGE_SIZE + 1,
    }
    return median(
        float(connection.execute(_EXPLAIN, values).scalar_one()[0]["Execution Time"])
        for _ in range(SEARCHES)
    )


def _csv(rooms: int, season: Iterable[date]) -> Iterator[bytes]:
    for on in season:
        lines = [f"{room},{on},5,false,1\n" for room in range(1, rooms + 1)]
        header = "roomId,night,capacity,closed,minStay\n" if on == OPENS_ON else ""
        yield (header + "".join(lines)).encode()


def _ndjson(rooms: int, season: Iterable[date]) -> Iterator[bytes]:
    for on in season:
        rest = f'"night":"{on}","capacity":5,"closed":false,"minStay":1}}\n'
        yield "".join(f'{{"roomId":{room},{rest}' for room in range(1, rooms + 1)).encode()


_FORMATS = {"csv": ("text/csv", _csv), "ndjson": ("application/x-ndjson", _ndjson)}
