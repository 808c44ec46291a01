"""Version 3: replays, each with the messages it was made for and how far it is; see `outbox.tables`."""

UPGRADE = (
    """
    CREATE TABLE outbox.replay (
        id INTEGER GENERATED ALWAYS AS IDENTITY,
        state TEXT DEFAULT 'RUNNING' NOT NULL,
        reason TEXT,
        topics TEXT[] NOT NULL,
        keys TEXT[] NOT NULL,
        message_ids UUID[] NOT NULL,
        since TIMESTAMP WITH TIME ZONE,
        until TIMESTAMP WITH TIME ZONE,
        to_topic TEXT,
        per_second INTEGER NOT NULL,
        cursors JSON NOT NULL,
        position BIGINT NOT NULL,
        first_position BIGINT NOT NULL,
        last_position BIGINT NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE NOT NULL,
        expected BIGINT NOT NULL,
        left_out BIGINT NOT NULL,
        sent BIGINT DEFAULT '0' NOT NULL,
        refused BIGINT DEFAULT '0' NOT NULL,
        system_identifier BIGINT
            DEFAULT (pg_control_system()).system_identifier NOT NULL,
        started_by TEXT NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_replay PRIMARY KEY (id),
        CONSTRAINT ck_replay_state_known
            CHECK (state IN ('RUNNING', 'INTERRUPTED', 'REFUSED', 'DONE', 'CANCELLED')),
        CONSTRAINT ck_replay_selection_given
            CHECK (cardinality(topics) + cardinality(keys) + cardinality(message_ids) > 0
                   OR since IS NOT NULL OR until IS NOT NULL),
        CONSTRAINT ck_replay_rate_not_negative CHECK (per_second >= 0)
    ) WITH (fillfactor = 50)
    """,
)

DOWNGRADE = ("DROP TABLE outbox.replay",)
