"""Open sagas: reservations that wait for the rooms' answer."""

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class OpenSagas:
    """How many there are, and the age in seconds of the one that waits longest; None if none does."""

    pending: int
    cancelling: int
    oldest_s: float | None


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


def open_sagas(connection: Connection) -> OpenSagas:
    """Count open sagas, on the database's clock."""
    return OpenSagas(**connection.execute(OPEN).mappings().one())
