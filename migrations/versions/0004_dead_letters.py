"""Dead letters of the consumers."""

from alembic import op

revision = "0004"
down_revision = "0003"
UPGRADE = [
    "CREATE SCHEMA consumers",
    """
    CREATE TABLE consumers.dead_letter (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        group_id TEXT NOT NULL,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        "offset" BIGINT NOT NULL,
        key BYTEA,
        value BYTEA,
        headers JSONB NOT NULL,
        reason TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        state TEXT DEFAULT 'OPEN' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        decided_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_dead_letter PRIMARY KEY (id),
        CONSTRAINT uq_dead_letter_group_id_topic_partition_offset UNIQUE (group_id, topic, partition, "offset"),
        CONSTRAINT ck_dead_letter_state_known CHECK (state IN ('OPEN', 'RETRIED', 'DISCARDED')),
        CONSTRAINT ck_dead_letter_decided_once CHECK ((state = 'OPEN') = (decided_at IS NULL))
    )
    """,
    "CREATE INDEX ix_dead_letter_open ON consumers.dead_letter (id) WHERE state = 'OPEN'",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP SCHEMA consumers CASCADE")
