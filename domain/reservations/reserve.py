"""Reserve: key, reservation, transition and message are one statement, so one round trip does it all.

    TAKE_TURN   one member's requests follow one another, for as long as it takes to commit; the caller's
                own setting of the transaction goes with it
    RESERVE     counts what the member has pending, claims the key, writes, appends; or does nothing

Nothing here begins, commits or rolls back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import TextClause, text

from domain.idempotency import TRY_LOCK, InFlight, KeyedRequest
from domain.messages import MessageTemplate
from domain.reservations.model import Cause, NewReservation, Reservation, Status
from runtime.pipeline import Rows, Statement


@dataclass(frozen=True, slots=True)
class ReserveWrite:
    """All that is written when a request is accepted."""

    request: NewReservation
    keyed: KeyedRequest
    cause: Cause
    message: MessageTemplate
    pending_max: int


@dataclass(frozen=True, slots=True)
class TooManyPending:
    """The member waits for so many answers already."""

    pending_max: int
    code: str = "TOO_MANY_PENDING"


# A statement before the one that counts, whose snapshot is then newer than the last one's commit: else
# requests at the same time would each see room for one more. Nobody's turn lasts longer than a commit,
# because all of a transaction is on the server when it begins.
_TAKE_TURN: Final = """
    SELECT {setting}, pg_advisory_xact_lock(
        hashtextextended('reserving.' || CAST(:member_id AS text), 0)
    )
"""

# The lock of the key is tried for the reason that `domain.idempotency` has: a request never waits for the
# first one with its key. The id is drawn before the key is written, which names it.
_RESERVE: Final = """
    WITH pending AS MATERIALIZED (
        SELECT count(*) AS count
        FROM (
            SELECT FROM reservations.reservation
            WHERE member_id = CAST(:member_id AS bigint) AND status = 'PENDING'
            LIMIT CAST(:pending_max AS integer)
        ) AS waiting
    ), lock AS MATERIALIZED (
        SELECT CAST(:key AS text) IS NULL OR {try_lock} AS held
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
_VALUE: Final = """
    CAST(:value_head AS bytea) || convert_to(CAST(id AS text), 'UTF8') || CAST(:value_tail AS bytea)
"""


def take_turn_sql(setting: str) -> TextClause:
    """Return TAKE_TURN, which sets something by an expression for the rest of the transaction."""
    return text(_TAKE_TURN.format(setting=setting))


def reserve_sql(append_within: Callable[..., str]) -> TextClause:
    """Return RESERVE, which appends its message by `outbox.append_within`; make it once."""
    appended = append_within(value=_VALUE, rows="inserted")
    try_lock = TRY_LOCK.format(schema="reservations")
    return text(_RESERVE.format(try_lock=try_lock, appended=appended))


def statements(
    turn: Statement, reserve: TextClause, write: ReserveWrite, message: Mapping[str, object]
) -> list[Statement]:
    """Return the transaction, with the binds that the outbox has prepared for the message.

    `turn` is TAKE_TURN with the binds of its setting.
    """
    take_turn, setting = turn
    who = {**setting, "member_id": write.request.member_id}
    return [(take_turn, who), (reserve, {**binds(write), **message})]


def binds(write: ReserveWrite) -> dict[str, object]:
    """Return the binds of RESERVE, but for those of the message."""
    request, cause, keyed = write.request, write.cause, write.keyed
    return {
        "member_id": request.member_id,
        "room_id": request.room_id,
        "check_in": request.stay.check_in,
        "check_out": request.stay.check_out,
        "pending_max": write.pending_max,
        "caller_id": keyed.caller_id,
        "key": keyed.key,
        "request_hash": keyed.request_hash,
        "message_id": cause.message_id,
        "actor": cause.actor,
        "trace_id": cause.trace_id,
        "value_head": write.message.head,
        "value_tail": write.message.tail,
    }


def outcome(write: ReserveWrite, rows: Rows) -> Reservation | InFlight | TooManyPending:
    """Read RESERVE's answer. Of a refusal `store.earlier` knows whether the key was used before."""
    ((id_, now, is_lock_held),) = rows
    if id_ is None:
        return TooManyPending(write.pending_max) if is_lock_held else InFlight()
    request = write.request
    return Reservation(
        id_, request.member_id, request.room_id, request.stay, Status.PENDING, None, 1, now, now
    )
