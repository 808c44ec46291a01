"""Version 6: a replay may be a mend, and findings can be acknowledged; see `outbox.admin.mending`."""

UPGRADE = (
    """
    ALTER TABLE outbox.replay
        ADD COLUMN positions BIGINT[] DEFAULT '{}' NOT NULL,
        ADD COLUMN gone UUID[] DEFAULT '{}' NOT NULL,
        ADD CONSTRAINT ck_replay_positions_of_messages
            CHECK (cardinality(positions) IN (0, cardinality(message_ids)))
    """,
    """
    CREATE TABLE outbox.acknowledgement (
        kind TEXT NOT NULL,
        topic TEXT NOT NULL,
        message_id UUID NOT NULL,
        acknowledged_by TEXT NOT NULL,
        acknowledged_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        reason TEXT NOT NULL,
        mended_by INTEGER,
        CONSTRAINT pk_acknowledgement PRIMARY KEY (message_id, topic, kind, acknowledged_at),
        CONSTRAINT ck_acknowledgement_reason_given CHECK (reason <> ''),
        CONSTRAINT fk_acknowledgement_mended_by
            FOREIGN KEY (mended_by) REFERENCES outbox.replay (id)
    )
    """,
    """
    CREATE UNIQUE INDEX uq_acknowledgement_in_force
        ON outbox.acknowledgement (kind, topic, message_id) WHERE mended_by IS NULL
    """,
)

DOWNGRADE = (
    "DROP TABLE outbox.acknowledgement",
    """
    ALTER TABLE outbox.replay
        DROP CONSTRAINT ck_replay_positions_of_messages,
        DROP COLUMN gone,
        DROP COLUMN positions
    """,
)
