"""Reserving: key, reservation, transition and message are one statement, so one round trip does it all.

    TAKE_TURN   one member's requests follow one another, for as long as it takes to commit
    RESERVE     counts what the member has pending, claims the key, writes, appends; or does nothing
    EARLIER     says why, if it did nothing

A key is kept with the reservation that it made: the answer to its repeats is that reservation as it was
then. Nothing here begins, commits or rolls back.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, TextClause, text

from domain.idempotency import InFlight, Mismatch
from domain.messages import Unnumbered
from domain.reservations.model import Cause, NewReservation, Reservation, Status
from domain.reservations.store import of_row
from runtime.roundtrip import Rows, Statement


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key, of who asks: a member, or somebody of the staff who acts for one."""

    caller_id: int
    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """All that is written when a wish is accepted."""

    wish: NewReservation
    cause: Cause
    request: Unnumbered
    claim: Claim | None
    pending_max: int


@dataclass(frozen=True, slots=True)
class TooManyPending:
    """The member waits for so many answers already."""

    pending_max: int
    code: str = "TOO_MANY_PENDING"


# A statement before the one that counts, whose snapshot is then newer than the last one's commit: else
# requests at the same time would each see room for one more. Nobody's turn lasts longer than a commit,
# because all of a transaction is on the server when it begins.
TAKE_TURN: Final = text("""
    SELECT pg_advisory_xact_lock(
        hashtextextended('reserving.' || CAST(:member_id AS text), 0)
    )
""")

# The key's lock is the one of `domain.idempotency.CLAIM`, for the same reason: nobody waits for the first
# request of a key. The id is drawn before the key is written, which names it.
_RESERVE: Final = """
    WITH pending AS MATERIALIZED (
        SELECT count(*) AS count
        FROM (
            SELECT FROM reservations.reservation
            WHERE member_id = CAST(:member_id AS bigint) AND status = 'PENDING'
            LIMIT CAST(:pending_max AS integer)
        ) AS waiting
    ), lock AS MATERIALIZED (
        SELECT CAST(:key AS text) IS NULL OR pg_try_advisory_xact_lock(hashtextextended(
            'idempotency.reservations.' || CAST(:caller_id AS text) || '.' || CAST(:key AS text), 0
        )) AS held
    ), drawn AS MATERIALIZED (
        SELECT nextval('reservations.reservation_id_seq') AS id
        FROM pending, lock
        WHERE held AND count < CAST(:pending_max AS integer)
    ), claimed AS (
        INSERT INTO reservations.idempotency_key (member_id, key, request_hash, reservation_id)
        SELECT CAST(:caller_id AS bigint), CAST(:key AS text), CAST(:request_hash AS bytea), id
        FROM drawn
        WHERE CAST(:key AS text) IS NOT NULL
        ON CONFLICT (member_id, key) DO NOTHING
        RETURNING reservation_id AS id
    ), inserted AS (
        INSERT INTO reservations.reservation (
            id, member_id, room_id, check_in, check_out, status, version
        )
        OVERRIDING SYSTEM VALUE
        SELECT id, CAST(:member_id AS bigint), CAST(:room_id AS bigint), CAST(:check_in AS date),
               CAST(:check_out AS date), 'PENDING', 1
        FROM (
            SELECT id FROM claimed
            UNION ALL
            SELECT id FROM drawn WHERE CAST(:key AS text) IS NULL
        ) AS accepted
        RETURNING id, status, version, created_at
    ), recorded AS (
        INSERT INTO reservations.transition (
            reservation_id, version, status, message_id, created_at, actor, trace_id
        )
        SELECT id, version, status, CAST(:message_id AS uuid), created_at,
               CAST(:actor AS text), CAST(:trace_id AS text)
        FROM inserted
    ), appended AS ({appended})
    SELECT inserted.id, inserted.created_at, lock.held
    FROM pending CROSS JOIN lock LEFT JOIN inserted ON true
"""
# What the message's value is, over the rows that were reserved: for `outbox.append_within`.
ROWS: Final = "inserted"
VALUE: Final = """
    CAST(:value_head AS bytea) || convert_to(CAST(id AS text), 'UTF8') || CAST(:value_tail AS bytea)
"""

EARLIER: Final = text("""
    SELECT kept.request_hash, made.*
    FROM reservations.idempotency_key AS kept
    LEFT JOIN reservations.reservation AS made ON made.id = kept.reservation_id
    WHERE kept.member_id = :caller_id AND kept.key = :key
""")


def reserve_and(appended: str) -> TextClause:
    """Return RESERVE with the statement that appends the message, over ROWS and with VALUE."""
    return text(_RESERVE.format(appended=appended))


def turn(order: Order) -> Statement:
    return TAKE_TURN, {"member_id": order.wish.member_id}


def binds(order: Order) -> dict[str, object]:
    """Return the binds of RESERVE, but for those of the message."""
    wish, claim, cause = order.wish, order.claim, order.cause
    return {
        "member_id": wish.member_id,
        "room_id": wish.room_id,
        "check_in": wish.stay.check_in,
        "check_out": wish.stay.check_out,
        "pending_max": order.pending_max,
        "caller_id": claim.caller_id if claim else None,
        "key": claim.key if claim else None,
        "request_hash": claim.request_hash if claim else None,
        "message_id": cause.message_id,
        "actor": cause.actor,
        "trace_id": cause.trace_id,
        "value_head": order.request.head,
        "value_tail": order.request.tail,
    }


def reserved(order: Order, rows: Rows) -> Reservation | InFlight | TooManyPending:
    """Read RESERVE's answer. Of a refusal `earlier` knows whether the key was used before."""
    ((id_, now, is_lock_held),) = rows
    if id_ is None:
        return TooManyPending(order.pending_max) if is_lock_held else InFlight()
    return _requested(id_, order.wish, now)


def earlier(connection: Connection, claim: Claim) -> Reservation | Mismatch | None:
    """Return what an earlier request with this key asked for, as it was then."""
    values = {"caller_id": claim.caller_id, "key": claim.key}
    found = connection.execute(EARLIER, values).mappings().one_or_none()
    if found is None:
        return None
    if bytes(found["request_hash"]) != claim.request_hash:
        return Mismatch()

    made = of_row(found)
    wish = NewReservation(made.member_id, made.room_id, made.stay)
    return _requested(made.id, wish, made.created_at)


def _requested(id_: int, wish: NewReservation, at: datetime) -> Reservation:
    return Reservation(
        id_, wish.member_id, wish.room_id, wish.stay, Status.PENDING, None, 1, at, at
    )
