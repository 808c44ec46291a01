"""Version 2: cursors with a floor (see `outbox.reader.difference`), relays that share, blocked keys.

A cursor's number only grows, whichever process writes it and wherever. The system identifier is of the
cluster whose transaction ids the cursor speaks of.
"""

UPGRADE = (
    """
    ALTER TABLE outbox.message ALTER COLUMN position SET DEFAULT
        CASE WHEN pg_current_xact_id() IS NOT NULL
             THEN nextval('outbox.message_position_seq') END
    """,
    "CREATE SEQUENCE outbox.shard_id_seq AS integer START 2",
    """
    ALTER TABLE outbox.shard
        ALTER COLUMN id SET DEFAULT nextval('outbox.shard_id_seq'),
        ADD COLUMN number BIGINT DEFAULT '0' NOT NULL,
        ADD COLUMN floor BIGINT DEFAULT '0' NOT NULL,
        ADD COLUMN next_xid xid8,
        ADD COLUMN system_identifier BIGINT
            DEFAULT (pg_control_system()).system_identifier NOT NULL,
        ADD COLUMN reserved_for TEXT,
        ADD COLUMN reserved_until TIMESTAMP WITH TIME ZONE,
        ADD COLUMN touched BIGINT,
        ADD COLUMN touches INTEGER DEFAULT '0' NOT NULL,
        ADD CONSTRAINT ck_shard_reservation_whole
            CHECK ((reserved_for IS NULL) = (reserved_until IS NULL))
    """,
    "UPDATE outbox.shard SET next_xid = pg_snapshot_xmax(coalesce(batch_snapshot, snapshot))",
    "ALTER TABLE outbox.shard ALTER COLUMN next_xid SET NOT NULL",
    """
    CREATE TABLE outbox.relay (
        name TEXT NOT NULL,
        seen_until TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT pk_relay PRIMARY KEY (name)
    ) WITH (fillfactor = 20)
    """,
    """
    CREATE TABLE outbox.blocked_key (
        key TEXT COLLATE "C" NOT NULL,
        key_hash INTEGER GENERATED ALWAYS AS (hashtext(key)) STORED NOT NULL,
        state TEXT DEFAULT 'BLOCKED' NOT NULL,
        message_id UUID NOT NULL,
        topic TEXT NOT NULL,
        message_position BIGINT NOT NULL,
        reason TEXT NOT NULL,
        attempts INTEGER DEFAULT '1' NOT NULL,
        blocked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        snapshot pg_snapshot NOT NULL,
        batch_snapshot pg_snapshot,
        position BIGINT,
        floor BIGINT NOT NULL,
        next_xid xid8 NOT NULL,
        touches INTEGER DEFAULT '0' NOT NULL,
        CONSTRAINT pk_blocked_key PRIMARY KEY (key),
        CONSTRAINT ck_blocked_key_state_known CHECK (state IN ('BLOCKED', 'RETRYING')),
        CONSTRAINT ck_blocked_key_batch_whole CHECK ((batch_snapshot IS NULL) = (position IS NULL))
    )
    """,
    """
    CREATE TABLE outbox.dead_letter (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        message_id UUID NOT NULL,
        topic TEXT NOT NULL,
        key TEXT COLLATE "C" NOT NULL,
        value BYTEA NOT NULL,
        headers JSON NOT NULL,
        position BIGINT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        reason TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        blocked_at TIMESTAMP WITH TIME ZONE NOT NULL,
        skipped_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        skipped_by TEXT NOT NULL,
        note TEXT DEFAULT '' NOT NULL,
        CONSTRAINT pk_dead_letter PRIMARY KEY (id)
    )
    """,
)

DOWNGRADE = (
    # The shards have passed over what these keys hold back, and version 1 would never look there again.
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM outbox.blocked_key) THEN
            RAISE EXCEPTION 'there are blocked keys: retry or skip them first';
        END IF;
    END $$
    """,
    "DROP TABLE outbox.dead_letter",
    "DROP TABLE outbox.blocked_key",
    "DROP TABLE outbox.relay",
    """
    ALTER TABLE outbox.shard
        ALTER COLUMN id DROP DEFAULT,
        DROP CONSTRAINT ck_shard_reservation_whole,
        DROP COLUMN number,
        DROP COLUMN floor,
        DROP COLUMN next_xid,
        DROP COLUMN system_identifier,
        DROP COLUMN reserved_for,
        DROP COLUMN reserved_until,
        DROP COLUMN touched,
        DROP COLUMN touches
    """,
    "DROP SEQUENCE outbox.shard_id_seq",
    """
    ALTER TABLE outbox.message
        ALTER COLUMN position SET DEFAULT nextval('outbox.message_position_seq')
    """,
)
