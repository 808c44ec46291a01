"""Reading lists of reservations, the history of one, and open sagas. Nothing here locks or writes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from operator import eq, ge, lt
from typing import Any, Final

from sqlalchemy import Connection, select, text

from domain.reservations.model import Cause, Reservation, Status, Transition
from domain.reservations.store import of_row
from domain.reservations.tables import reservation, transition
from runtime.pipeline import Rows, Statement

# A saga that is redriven each hour needs six weeks for so many transitions.
HISTORY_MAX: Final = 1_000

# LATERAL, because so each reservation is one look into the primary key: a join of the two lists might
# read the whole table, and so might row security, which has to find the reservation of each row.
SINCE = text(f"""
    SELECT step.*
    FROM unnest(CAST(:ids AS bigint[]), CAST(:versions AS integer[])) AS known (id, version)
    CROSS JOIN LATERAL (
        SELECT {", ".join(transition.c.keys())}
        FROM reservations.transition
        WHERE reservation_id = known.id AND version > known.version
        ORDER BY version
        LIMIT {HISTORY_MAX}
    ) AS step
    ORDER BY reservation_id, version
""")

# Uses the index of open sagas. A redriven saga has several versions of the same status, and has waited
# since the first of them.
OPEN = text("""
    SELECT count(*) FILTER (WHERE status = 'PENDING') AS pending,
           count(*) FILTER (WHERE status = 'CANCELLING') AS cancelling,
           CAST(extract(epoch FROM now() - min(since)) AS double precision) AS oldest_s
    FROM reservations.reservation AS waiting
    CROSS JOIN LATERAL (
        SELECT min(created_at) AS since FROM reservations.transition
        WHERE reservation_id = waiting.id AND transition.status = waiting.status
    ) AS asked
    WHERE status IN ('PENDING', 'CANCELLING')
""")


@dataclass(frozen=True, slots=True)
class OpenSagas:
    """How many wait for the rooms, and the age in seconds of the oldest; None if none waits."""

    pending: int
    cancelling: int
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class Filter:
    """The reservations to list; check-ins in the half-open range [from, to)."""

    member_id: int | None = None
    statuses: tuple[Status, ...] = ()
    room_id: int | None = None
    check_in_from: date | None = None
    check_in_to: date | None = None


def page(
    connection: Connection, criteria: Filter, after_id: int | None, limit: int
) -> list[Reservation]:
    """Read a page, newest first; `after_id` ended the last page."""
    column = reservation.c
    bounds = (
        (column.member_id, eq, criteria.member_id),
        (column.room_id, eq, criteria.room_id),
        (column.check_in, ge, criteria.check_in_from),
        (column.check_in, lt, criteria.check_in_to),
        (column.id, lt, after_id),
    )
    given = [compare(of, value) for of, compare, value in bounds if value is not None]
    chosen = select(reservation).where(*given)
    if criteria.statuses:
        chosen = chosen.where(column.status.in_(criteria.statuses))
    rows = connection.execute(chosen.order_by(column.id.desc()).limit(limit))
    return [of_row(row) for row in rows]


def history(
    connection: Connection, reservation_id: int, after_version: int = 0
) -> list[Transition]:
    """Read the transitions after a version, oldest first, HISTORY_MAX at most."""
    of, version = transition.c.reservation_id, transition.c.version
    chosen = select(transition).where(of == reservation_id, version > after_version)
    rows = connection.execute(chosen.order_by(version).limit(HISTORY_MAX))
    return [_transition(row) for row in rows]


def since(versions: Mapping[int, int]) -> Statement:
    """Read the transitions after a version of each reservation; `transitions` reads the answer.

    Oldest first, HISTORY_MAX of each at most.
    """
    return SINCE, {"ids": _array(versions), "versions": _array(versions.values())}


def transitions(rows: Rows) -> list[Transition]:
    return [_transition(row) for row in rows]


def open_sagas(connection: Connection) -> OpenSagas:
    """Count open sagas, on the database's clock."""
    return OpenSagas(**connection.execute(OPEN).mappings().one())


def _transition(row: Sequence[Any]) -> Transition:
    id_, version, status, reason, message_id, at, actor, trace_id = row
    return Transition(id_, version, Status(status), reason, at, Cause(message_id, actor, trace_id))


def _array(numbers: Iterable[int]) -> str:
    """Write an array as Postgres reads it, for a statement that goes out in one round trip."""
    return f"{{{','.join(map(str, numbers))}}}"
