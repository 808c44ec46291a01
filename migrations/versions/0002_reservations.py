"""The reservation side: reservations, their transitions, idempotency keys."""

from alembic import op

revision = "0002"
down_revision = "0001"
UPGRADE = [
    "CREATE SCHEMA reservations",
    """
    CREATE TABLE reservations.idempotency_key (
        member_id BIGINT NOT NULL,
        key TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        response_status INTEGER,
        response_body BYTEA,
        reservation_id BIGINT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_idempotency_key PRIMARY KEY (member_id, key),
        CONSTRAINT ck_idempotency_key_bounded_key CHECK (length(key) BETWEEN 1 AND 255),
        CONSTRAINT ck_idempotency_key_sha256_hash CHECK (octet_length(request_hash) = 32),
        CONSTRAINT ck_idempotency_key_whole_response CHECK ((response_status IS NULL) = (response_body IS NULL))
    )
    """,
    "CREATE INDEX ix_idempotency_key_created_at ON reservations.idempotency_key USING brin (created_at)",
    """
    CREATE TABLE reservations.reservation (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        member_id BIGINT NOT NULL,
        room_id BIGINT NOT NULL,
        check_in DATE NOT NULL,
        check_out DATE NOT NULL,
        status TEXT NOT NULL,
        reason TEXT,
        version INTEGER NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_reservation PRIMARY KEY (id),
        CONSTRAINT ck_reservation_has_a_night CHECK (check_in < check_out),
        CONSTRAINT ck_reservation_known_status CHECK (status IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLING', 'CANCELLED')),
        CONSTRAINT ck_reservation_fitting_reason CHECK (
        CASE
            WHEN status = 'REJECTED' THEN reason IS NOT NULL
            WHEN status IN ('PENDING', 'CANCELLING') THEN reason IS NULL OR reason = 'REDRIVEN'
            ELSE reason IS NULL
        END
    ),
        CONSTRAINT ck_reservation_version_counts_from_one CHECK (version >= 1)
    )
    """,
    "CREATE INDEX ix_reservation_member_id_id ON reservations.reservation (member_id, id)",
    "CREATE INDEX ix_reservation_open ON reservations.reservation (updated_at) WHERE status IN ('PENDING', 'CANCELLING')",
    """
    CREATE TABLE reservations.transition (
        reservation_id BIGINT NOT NULL,
        version INTEGER NOT NULL,
        status TEXT NOT NULL,
        reason TEXT,
        message_id UUID NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_transition PRIMARY KEY (reservation_id, version),
        CONSTRAINT ck_transition_known_status CHECK (status IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLING', 'CANCELLED')),
        CONSTRAINT ck_transition_fitting_reason CHECK (
        CASE
            WHEN status = 'REJECTED' THEN reason IS NOT NULL
            WHEN status IN ('PENDING', 'CANCELLING') THEN reason IS NULL OR reason = 'REDRIVEN'
            ELSE reason IS NULL
        END
    ),
        CONSTRAINT fk_transition_reservation_id_reservation FOREIGN KEY(reservation_id) REFERENCES reservations.reservation (id)
    )
    """,
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP SCHEMA reservations CASCADE")
