"""Idempotency keys: a member's request, repeated under the same key, is done once.

Each context keeps the keys of its own requests in its own database. The key, the work and the response
are stored by one transaction, so a key that can be read is always one that was answered. Nothing here
begins, commits or rolls back.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Table,
    Text,
    TextClause,
    func,
    text,
)


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request of a caller under an idempotency key of theirs, perhaps not the first; or without a key.

    The caller is a member, or staff acting for one.
    """

    caller_id: int
    key: str | None
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is free: do the work, then `answer` it in the same transaction."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The request was done before; repeat its answer."""

    response_status: int
    response_body: bytes


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used for a different request."""

    code: str = "IDEMPOTENCY_KEY_REUSED"


@dataclass(frozen=True, slots=True)
class InFlight:
    """The first request with this key is still being done."""

    code: str = "IDEMPOTENCY_KEY_IN_FLIGHT"


# The lock of one key, for every statement that inserts it. ON CONFLICT alone would wait for another
# transaction's uncommitted row, holding a connection for as long as that one takes. A request that has
# not got the lock tries no insert, so it never waits. The lock ends with the transaction, just after the
# row becomes visible: there is no gap between them. Two keys of one hash would cost a needless "in
# flight", nothing else.
TRY_LOCK: Final = """pg_try_advisory_xact_lock(hashtextextended(
            'idempotency.{schema}.' || CAST(:caller_id AS text) || '.' || CAST(:key AS text), 0
        ))"""

CLAIM: Final = f"""
    WITH lock AS MATERIALIZED (SELECT {TRY_LOCK} AS held)
    INSERT INTO {{schema}}.idempotency_key (member_id, key, request_hash)
    SELECT :caller_id, :key, :request_hash FROM lock WHERE held
    ON CONFLICT (member_id, key) DO NOTHING
    RETURNING true
"""

FIND: Final = """
    SELECT request_hash, response_status, response_body
    FROM {schema}.idempotency_key
    WHERE member_id = :caller_id AND key = :key
"""

ANSWER: Final = """
    UPDATE {schema}.idempotency_key
    SET response_status = :status, response_body = :body
    WHERE member_id = :caller_id AND key = :key
"""

# By ctid, since DELETE knows no LIMIT; a row this old is never written again, so it does not move.
FORGET: Final = """
    DELETE FROM {schema}.idempotency_key
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.idempotency_key
        WHERE created_at < now() - make_interval(secs => :older_than_s)
        LIMIT :limit
    ))
"""


@dataclass(frozen=True, slots=True)
class IdempotencyKeys:
    """The keys of one context, in the table `idempotency_key` of its schema."""

    schema: Literal["reservations", "rooms"]

    def claim(
        self, connection: Connection, request: KeyedRequest
    ) -> Claimed | Repeat | Mismatch | InFlight:
        """Claim a key for this transaction, or learn what became of it; never waits for another."""
        values = {"caller_id": request.caller_id, "key": request.key}
        claim = {**values, "request_hash": request.request_hash}
        if connection.scalar(self._sql(CLAIM), claim):
            return Claimed()

        # A second statement, because the first one's snapshot may be older than the other's commit.
        found = connection.execute(self._sql(FIND), values).one_or_none()
        return _repeated(found, request.request_hash) if found else InFlight()

    def answer(
        self, connection: Connection, request: KeyedRequest, *, status: int, body: bytes
    ) -> None:
        """Keep the response of a claimed key, for repeats of the request."""
        values = {"caller_id": request.caller_id, "key": request.key}
        answered = connection.execute(self._sql(ANSWER), {**values, "status": status, "body": body})
        assert answered.rowcount == 1, f"{request} was never claimed"

    def forget(self, connection: Connection, older_than_s: float, limit: int) -> int:
        """Delete keys that nobody repeats any more, `limit` at most; returns how many."""
        values = {"older_than_s": older_than_s, "limit": limit}
        return connection.execute(self._sql(FORGET), values).rowcount

    def _sql(self, template: str) -> TextClause:
        return _sql(template, self.schema)


RESERVATION_KEYS: Final = IdempotencyKeys("reservations")
ROOM_KEYS: Final = IdempotencyKeys("rooms")


def keys_table(metadata: MetaData, *more: Column[Any]) -> Table:
    """Describe the table of one context's keys, with more columns of its own."""
    return Table(
        "idempotency_key",
        metadata,
        Column("member_id", BigInteger, nullable=False),
        Column("key", Text, nullable=False),
        Column("request_hash", LargeBinary, nullable=False),
        Column("response_status", Integer),
        Column("response_body", LargeBinary),
        *more,
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        PrimaryKeyConstraint("member_id", "key"),
        CheckConstraint("length(key) BETWEEN 1 AND 255", name="bounded_key"),
        CheckConstraint("octet_length(request_hash) = 32", name="sha256_hash"),
        CheckConstraint(
            "(response_status IS NULL) = (response_body IS NULL)", name="whole_response"
        ),
        # BRIN: rows come in order of time, and only the hourly clean-up asks for it.
        Index(None, "created_at", postgresql_using="brin"),
    )


@cache
def _sql(template: str, schema: str) -> TextClause:
    return text(template.format(schema=schema))


def _repeated(found: Row[tuple[bytes, int, bytes]], request_hash: bytes) -> Repeat | Mismatch:
    if bytes(found.request_hash) != request_hash:
        return Mismatch()

    assert found.response_body is not None, "a key is claimed and answered in one transaction"
    return Repeat(found.response_status, found.response_body)
