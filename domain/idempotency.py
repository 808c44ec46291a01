"""Idempotency keys: a member's request, repeated under the same key, is done once.

Each context keeps the keys of its own requests in its own database, and no response: the answer to a
repeat is made of the request (rooms), or of the reservation as it was then, or as it is if the request
changed nothing. The key and the work are stored by one transaction, so a key that can be read is always
one whose work is done. Nothing here begins, commits or rolls back.
"""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final, Literal

import sqlalchemy as sa


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
    """The key was free: do the work in the same transaction."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same request was done before; answer it as it was answered then."""


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
    INSERT INTO {{schema}}.idempotency_key (member_id, key, request_hash{{columns}})
    SELECT :caller_id, :key, :request_hash{{values}} FROM lock WHERE held
    ON CONFLICT (member_id, key) DO NOTHING
    RETURNING true
"""

FIND: Final = """
    SELECT request_hash FROM {schema}.idempotency_key
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
        self, connection: sa.Connection, request: KeyedRequest, **more: object
    ) -> Claimed | Repeat | Mismatch | InFlight:
        """Claim a key for this transaction, or learn what became of it; never waits for another.

        `more` are further columns of the table.
        """
        columns = "".join(f", {name}" for name in more)
        values = "".join(f", :{name}" for name in more)
        claim = _sql(CLAIM, schema=self.schema, columns=columns, values=values)
        if connection.scalar(claim, asdict(request) | more):
            return Claimed()

        # A second statement, because the first one's snapshot may be older than the other's commit.
        find = _sql(FIND, schema=self.schema)
        found = connection.scalar(find, {"caller_id": request.caller_id, "key": request.key})
        if found is None:
            return InFlight()
        return Repeat() if bytes(found) == request.request_hash else Mismatch()

    def forget(self, connection: sa.Connection, older_than_s: float, limit: int) -> int:
        """Delete keys that nobody repeats any more, `limit` at most; returns how many."""
        values = {"older_than_s": older_than_s, "limit": limit}
        return connection.execute(_sql(FORGET, schema=self.schema), values).rowcount


RESERVATION_KEYS: Final = IdempotencyKeys("reservations")
ROOM_KEYS: Final = IdempotencyKeys("rooms")


def keys_table(metadata: sa.MetaData, *more: sa.Column[Any]) -> sa.Table:
    """Describe the table of one context's keys, with more columns of its own."""
    return sa.Table(
        "idempotency_key",
        metadata,
        sa.Column("member_id", sa.BigInteger, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        # No longer written; keys of an earlier version have them.
        sa.Column("response_status", sa.Integer),
        sa.Column("response_body", sa.LargeBinary),
        *more,
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        sa.PrimaryKeyConstraint("member_id", "key"),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name="bounded_key"),
        sa.CheckConstraint("octet_length(request_hash) = 32", name="sha256_hash"),
        sa.CheckConstraint(
            "(response_status IS NULL) = (response_body IS NULL)", name="whole_response"
        ),
        # BRIN: rows come in order of time, and only the hourly clean-up asks for it.
        sa.Index(None, "created_at", postgresql_using="brin"),
    )


@cache
def _sql(template: str, **parts: str) -> sa.TextClause:
    return sa.text(template.format(**parts))
