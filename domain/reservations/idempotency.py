"""Idempotency keys: a member's request, repeated under the same key, is done once.

The key, the reservation and the response are stored by one transaction, so a key that can be read
is always one that was answered. Nothing here begins, commits or rolls back.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Row, text


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is ours: do the work, then `answer_key` in the same transaction."""


@dataclass(frozen=True, slots=True)
class Replay:
    """This was done before; repeat its answer."""

    reservation_id: int | None
    response_status: int | None
    response_body: bytes | None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used for a different request."""

    code: str = "IDEMPOTENCY_KEY_REUSED"


@dataclass(frozen=True, slots=True)
class InFlight:
    """The first request with this key is still being done."""

    code: str = "IDEMPOTENCY_KEY_IN_FLIGHT"


# ON CONFLICT alone would wait for another transaction's uncommitted row, holding a connection for
# as long as that one takes. Whoever has not got the advisory lock tries no insert, so nobody waits.
# The lock ends with the transaction, just after the row becomes visible: there is no gap between
# them. Two keys of one hash would cost a needless "in flight", nothing else.
CLAIM = text("""
    WITH lock AS MATERIALIZED (
        SELECT pg_try_advisory_xact_lock(
            hashtextextended('idempotency:' || CAST(:member_id AS text) || ':' || :key, 0)
        ) AS held
    )
    INSERT INTO reservations.idempotency_key (member_id, key, request_hash)
    SELECT :member_id, :key, :request_hash FROM lock WHERE held
    ON CONFLICT (member_id, key) DO NOTHING
    RETURNING true
""")

FIND = text("""
    SELECT request_hash, reservation_id, response_status, response_body
    FROM reservations.idempotency_key
    WHERE member_id = :member_id AND key = :key
""")

ANSWER = text("""
    UPDATE reservations.idempotency_key
    SET reservation_id = :reservation_id, response_status = :status, response_body = :body
    WHERE member_id = :member_id AND key = :key
""")

# By ctid, since DELETE knows no LIMIT; a row this old is never written again, so it does not move.
FORGET = text("""
    DELETE FROM reservations.idempotency_key
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM reservations.idempotency_key
        WHERE created_at < now() - make_interval(secs => :older_than_s)
        LIMIT :limit
    ))
""")


def claim_key(
    connection: Connection, member_id: int, key: str, request_hash: bytes
) -> Claimed | Replay | Mismatch | InFlight:
    """Claim a key for this transaction, or learn what became of it; never waits for another."""
    values = {"member_id": member_id, "key": key}
    if connection.scalar(CLAIM, {**values, "request_hash": request_hash}):
        return Claimed()

    # A second statement, because the first one's snapshot may be older than the other's commit.
    found = connection.execute(FIND, values).one_or_none()
    return _repeated(found, request_hash) if found else InFlight()


def answer_key(
    connection: Connection,
    member_id: int,
    key: str,
    *,
    reservation_id: int | None,
    status: int,
    body: bytes,
) -> None:
    """Keep the response of a claimed key, for whoever repeats the request."""
    values = {
        "member_id": member_id,
        "key": key,
        "reservation_id": reservation_id,
        "status": status,
        "body": body,
    }
    answered = connection.execute(ANSWER, values)
    assert answered.rowcount == 1, f"key {key!r} of member {member_id} was never claimed"


def forget_keys(connection: Connection, older_than_s: float, limit: int) -> int:
    """Delete keys that nobody repeats any more, `limit` at most; returns how many."""
    return connection.execute(FORGET, {"older_than_s": older_than_s, "limit": limit}).rowcount


def _repeated(found: Row[tuple[bytes, int, int, bytes]], request_hash: bytes) -> Replay | Mismatch:
    if bytes(found.request_hash) != request_hash:
        return Mismatch()

    return Replay(found.reservation_id, found.response_status, found.response_body)
