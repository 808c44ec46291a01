"""Version 1: the message log, the shards that relay it, and the declared topics."""

UPGRADE = (
    "CREATE SCHEMA outbox",
    "CREATE SEQUENCE outbox.message_position_seq AS bigint CACHE 1",
    """
    CREATE TABLE outbox.message (
        position BIGINT DEFAULT nextval('outbox.message_position_seq') NOT NULL,
        xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
        message_id UUID NOT NULL,
        topic TEXT NOT NULL,
        key TEXT COLLATE "C" NOT NULL,
        key_hash INTEGER GENERATED ALWAYS AS (hashtext(key)) STORED NOT NULL,
        value BYTEA NOT NULL,
        headers JSON NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_message PRIMARY KEY (position, created_at),
        CONSTRAINT ck_message_key_given CHECK (key <> '')
    ) PARTITION BY RANGE (created_at)
    """,
    "CREATE TABLE outbox.message_default PARTITION OF outbox.message DEFAULT",
    "CREATE INDEX ix_message_xid ON outbox.message (xid)",
    """
    CREATE TABLE outbox.shard (
        id INTEGER NOT NULL,
        hash_from BIGINT NOT NULL,
        hash_to BIGINT NOT NULL,
        snapshot pg_snapshot NOT NULL,
        batch_snapshot pg_snapshot,
        position BIGINT,
        epoch BIGINT DEFAULT '0' NOT NULL,
        owner TEXT,
        leased_until TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_shard PRIMARY KEY (id),
        CONSTRAINT ck_shard_range_not_empty CHECK (hash_from < hash_to),
        CONSTRAINT ck_shard_batch_whole CHECK ((batch_snapshot IS NULL) = (position IS NULL)),
        CONSTRAINT ck_shard_lease_whole CHECK ((owner IS NULL) = (leased_until IS NULL))
    ) WITH (fillfactor = 20)
    """,
    """
    INSERT INTO outbox.shard (id, hash_from, hash_to, snapshot)
    VALUES (1, -2147483648, 2147483648, '1:1:')
    """,
    """
    CREATE TABLE outbox.topic (
        name TEXT NOT NULL,
        value_bytes_max INTEGER NOT NULL,
        CONSTRAINT pk_topic PRIMARY KEY (name),
        CONSTRAINT ck_topic_value_bytes_max_positive CHECK (value_bytes_max > 0)
    )
    """,
)

DOWNGRADE = ("DROP SCHEMA outbox CASCADE",)
