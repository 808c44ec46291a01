"""Rules of room nights, and idempotency keys of the rooms.

The new columns have constant defaults, so no row is rewritten and existing nights keep their meaning.
The constraint holds for new rows at once; 0010 validates it for all rows, without blocking writers.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
UPGRADE = [
    """
    ALTER TABLE rooms.room_night
        ADD COLUMN closed BOOLEAN DEFAULT false NOT NULL,
        ADD COLUMN min_stay SMALLINT DEFAULT 1 NOT NULL,
        ADD COLUMN closed_to_arrival BOOLEAN DEFAULT false NOT NULL,
        ADD COLUMN closed_to_departure BOOLEAN DEFAULT false NOT NULL,
        ADD CONSTRAINT ck_room_night_bounded_min_stay CHECK (min_stay BETWEEN 1 AND 365) NOT VALID
    """,
    """
    CREATE TABLE rooms.idempotency_key (
        member_id BIGINT NOT NULL,
        key TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        response_status INTEGER,
        response_body BYTEA,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_idempotency_key PRIMARY KEY (member_id, key),
        CONSTRAINT ck_idempotency_key_bounded_key CHECK (length(key) BETWEEN 1 AND 255),
        CONSTRAINT ck_idempotency_key_sha256_hash CHECK (octet_length(request_hash) = 32),
        CONSTRAINT ck_idempotency_key_whole_response CHECK ((response_status IS NULL) = (response_body IS NULL))
    )
    """,
    "CREATE INDEX ix_idempotency_key_created_at ON rooms.idempotency_key USING brin (created_at)",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE rooms.idempotency_key")
    op.execute("""
        ALTER TABLE rooms.room_night
            DROP COLUMN closed,
            DROP COLUMN min_stay,
            DROP COLUMN closed_to_arrival,
            DROP COLUMN closed_to_departure
    """)
