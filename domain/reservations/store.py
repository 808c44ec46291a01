"""Reservations in Postgres; `reserve` creates them. Nothing here begins, commits or rolls back.

Every change of a reservation and its row in `transition` are one statement, so neither ever exists
without the other.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, select, text

from domain.idempotency import KeyedRequest, Mismatch
from domain.reservations.model import Cause, Reservation, Status
from domain.reservations.tables import reservation
from domain.stay import Stay
from runtime.pipeline import Statement

# Requests that wait for an answer listen on it; the payload is reservation ids, joined by commas.
SETTLED_CHANNEL: Final = "reservations"

# The wait between redrives of a saga grows up to 2^6 times: from a minute to an hour.
DOUBLINGS_MAX: Final = 6


class StaleVersion(Exception):
    """A reservation changed since it was read: it was not locked."""


_RESERVATION = ", ".join(reservation.c.keys())

ONE = text(f"""
    SELECT {_RESERVATION} FROM reservations.reservation
    WHERE id = CAST(:id AS bigint)
      AND member_id = coalesce(CAST(:member_id AS bigint), member_id)
""")

# In id order, so two batches that share reservations lock them in the same order.
LOCK = text(f"""
    SELECT {_RESERVATION} FROM reservations.reservation
    WHERE id = ANY (CAST(:ids AS bigint[]))
    ORDER BY id
    FOR UPDATE
""")

# SKIP LOCKED is right here, and only here: a locked reservation is being settled, cancelled or redriven
# at this moment, so it is not stale; and these rows have no order to keep.
# Each redrive doubles the wait for the next: an outage must not multiply its own backlog. The number of
# redrives is the number of versions since the newest that is none. The first of the two conditions on
# the time is for the index of open sagas.
LOCK_STALE = text(f"""
    SELECT {_RESERVATION} FROM reservations.reservation AS waiting
    WHERE status IN ('PENDING', 'CANCELLING')
      AND updated_at < now() - make_interval(secs => :older_than_s)
      AND updated_at < now() - make_interval(secs => :older_than_s * 2 ^ least(
          :doublings_max,
          version - (
              SELECT max(version) FROM reservations.transition
              WHERE reservation_id = waiting.id AND reason IS DISTINCT FROM 'REDRIVEN'
          )
      ))
    ORDER BY updated_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
""")

SAVE = text("""
    WITH moved AS (
        UPDATE reservations.reservation AS old
        SET status = changed.status, reason = changed.reason, version = changed.version,
            updated_at = now()
        FROM unnest(
            CAST(:ids AS bigint[]), CAST(:versions AS integer[]), CAST(:statuses AS text[]),
            CAST(:reasons AS text[]), CAST(:message_ids AS uuid[]),
            CAST(:actors AS text[]), CAST(:trace_ids AS text[])
        ) AS changed (id, version, status, reason, message_id, actor, trace_id)
        WHERE old.id = changed.id AND old.version = changed.version - 1
        RETURNING changed.*
    ), recorded AS (
        INSERT INTO reservations.transition (
            reservation_id, version, status, reason, message_id, created_at, actor, trace_id
        )
        SELECT id, version, status, reason, message_id, now(), actor, trace_id FROM moved
    )
    SELECT count(*), now() FROM moved
""")

# A key is kept with its reservation, in the transaction that changed it: that transition has the key's
# instant. A request that changed nothing has none; its repeat is answered with the reservation as it is.
EARLIER = text("""
    SELECT kept.request_hash, made.id, made.member_id, made.room_id, made.check_in, made.check_out,
           coalesce(step.status, made.status) AS status,
           CASE WHEN step.version IS NULL THEN made.reason ELSE step.reason END AS reason,
           coalesce(step.version, made.version) AS version,
           made.created_at, coalesce(step.created_at, made.updated_at) AS updated_at
    FROM reservations.idempotency_key AS kept
    LEFT JOIN reservations.reservation AS made
        ON made.id = coalesce(kept.reservation_id, CAST(:reservation_id AS bigint))
    LEFT JOIN reservations.transition AS step
        ON step.reservation_id = made.id AND step.created_at = kept.created_at
    WHERE kept.member_id = :caller_id AND kept.key = :key
    ORDER BY step.version DESC
    LIMIT 1
""")


def get(
    connection: Connection, reservation_id: int, member_id: int | None = None
) -> Reservation | None:
    """Read a reservation; with a member, only if it belongs to the member."""
    chosen = select(reservation).where(reservation.c.id == reservation_id)
    if member_id is not None:
        chosen = chosen.where(reservation.c.member_id == member_id)

    row = connection.execute(chosen).one_or_none()
    return of_row(row) if row else None


def one(reservation_id: int, member_id: int | None = None) -> Statement:
    """Read what `get` does, in one round trip with other statements; `of_row` reads the row."""
    return ONE, {"id": reservation_id, "member_id": member_id}


def earlier(
    connection: Connection, request: KeyedRequest, reservation_id: int | None = None
) -> Reservation | Mismatch | None:
    """Return the reservation as an earlier request with this key left it; None if there was none.

    `reservation_id` is for keys of an earlier version of innbox, which were kept without it.
    """
    values = {"caller_id": request.caller_id, "key": request.key, "reservation_id": reservation_id}
    found = connection.execute(EARLIER, values).one_or_none()
    if found is None:
        return None
    request_hash, *made = found
    if bytes(request_hash) != request.request_hash:
        return Mismatch()
    # Without an id it is a reservation that this caller may no longer see.
    return of_row(made) if found.id else None


def lock(connection: Connection, ids: Collection[int]) -> dict[int, Reservation]:
    """Lock and read those of `ids` that exist, until the transaction ends."""
    rows = connection.execute(LOCK, {"ids": list(ids)})
    return {row.id: of_row(row) for row in rows}


def save_transitions(
    connection: Connection, changed: Sequence[tuple[Reservation, Cause]]
) -> list[Reservation]:
    """Write next versions of locked reservations, each with its cause.

    Each reservation at most once. Raises StaleVersion if one was not locked.
    """
    if not changed:
        return []

    columns = {
        "ids": [one.id for one, _ in changed],
        "versions": [one.version for one, _ in changed],
        "statuses": [one.status.value for one, _ in changed],
        "reasons": [one.reason for one, _ in changed],
        "message_ids": [cause.message_id for _, cause in changed],
        "actors": [cause.actor for _, cause in changed],
        "trace_ids": [cause.trace_id for _, cause in changed],
    }
    count, now = connection.execute(SAVE, columns).one()
    if count != len(changed):
        ids = columns["ids"]
        raise StaleVersion(f"one of the reservations {ids} has another version: it was not locked")

    return [replace(one, updated_at=now) for one, _ in changed]


def stale(connection: Connection, older_than_s: float, limit: int) -> list[Reservation]:
    """Lock open sagas that have waited this long, longest first, on the database's clock.

    After a redrive a saga must have waited twice as long, then four times, and so on.
    """
    values = {"older_than_s": older_than_s, "doublings_max": DOUBLINGS_MAX, "limit": limit}
    return [of_row(row) for row in connection.execute(LOCK_STALE, values)]


def of_row(row: Sequence[Any]) -> Reservation:
    """Read the columns of the table, in its order."""
    id_, member_id, room_id, check_in, check_out, status, *rest = row
    return Reservation(id_, member_id, room_id, Stay(check_in, check_out), Status(status), *rest)
