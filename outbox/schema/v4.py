"""Version 4: the log's partitions are made and dropped by functions, so their keeper need not own it.

They run with the rights of their caller. For a role with few rights of its own their owner makes them
`SECURITY DEFINER`, and grants EXECUTE to no other: they say every name in full, look for nothing in
a schema of the caller's, and touch the days of `outbox.message` only. `outbox.admin.partitions` says
what they promise; that no lock is waited for in vain is up to the caller's `lock_timeout`.
"""

UPGRADE = (
    # Or replaced, which keeps their grants, for a project whose migration can be repeated.
    """
    CREATE OR REPLACE FUNCTION outbox.make_partition(day date) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        name text := 'message_' || to_char(day, 'YYYYMMDD');
        low text := to_char(day, 'YYYY-MM-DD') || ' 00:00+00';
        high text := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00+00';
        columns text := 'position, xid, message_id, topic, key, value, headers, created_at';
        move text := 'WITH moved AS (DELETE FROM outbox.message_default'
            || ' WHERE created_at >= ' || quote_literal(low)
            || ' AND created_at < ' || quote_literal(high) || ' RETURNING ' || columns
            || ') INSERT INTO outbox.' || name || ' (' || columns || ') SELECT ' || columns
            || ' FROM moved';
        strays bigint;
    BEGIN
        IF (day BETWEEN '0001-01-01' AND '9999-12-31') IS NOT TRUE THEN
            RAISE invalid_parameter_value USING MESSAGE =
                coalesce(CAST(day AS text), 'NULL') || ' is no day of a calendar';
        END IF;
        -- Built aside and attached: creating in place would lock out every writer.
        EXECUTE 'CREATE TABLE outbox.' || name || ' (LIKE outbox.message INCLUDING ALL)';
        EXECUTE move;
        GET DIAGNOSTICS strays = ROW_COUNT;
        -- Statements that have listed the partitions, and then wait for the default one until we
        -- commit, would not learn of the new one: a writer's row would be refused, and a reader would
        -- miss the strays for good. So they must wait before that, at the log itself. A day that begins
        -- within the hour may have begun by then.
        IF strays > 0 OR CAST(low AS timestamptz) < clock_timestamp() + interval '1 hour' THEN
            LOCK TABLE ONLY outbox.message IN ACCESS EXCLUSIVE MODE;
            EXECUTE move;  -- few: those that came while most were moved
        END IF;
        EXECUTE 'ALTER TABLE outbox.message ATTACH PARTITION outbox.' || name
            || ' FOR VALUES FROM (' || quote_literal(low) || ') TO (' || quote_literal(high) || ')';
        RETURN name;
    END $$
    """,
    """
    CREATE OR REPLACE FUNCTION outbox.drop_partitions(days date[], since pg_snapshot) RETURNS text[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        day date;
        name text;
        names text[] := '{}';
        locks text := 'ONLY outbox.message';
        dropped text[] := '{}';
        untouched boolean;
    BEGIN
        FOREACH day IN ARRAY days LOOP
            name := 'message_' || to_char(day, 'YYYYMMDD');
            IF NOT EXISTS (
                SELECT FROM pg_inherits
                WHERE inhparent = CAST('outbox.message' AS regclass)
                  AND inhrelid = to_regclass('outbox.' || name)
            ) THEN
                RAISE undefined_table USING MESSAGE =
                    'there is no partition of ' || coalesce(to_char(day, 'YYYY-MM-DD'), 'NULL');
            END IF;
            names := names || name;
            locks := locks || ', outbox.' || name;
        END LOOP;
        -- The log before its parts, as readers and writers do it: the other way round, each that came
        -- between the two locks would wait for us and we for it, and under load somebody always does.
        EXECUTE 'LOCK TABLE ' || locks || ' IN ACCESS EXCLUSIVE MODE';
        FOREACH name IN ARRAY names LOOP
            -- Under the lock, so it must be quick: has anything been committed there since?
            EXECUTE 'SELECT NOT EXISTS (SELECT FROM outbox.' || name || ' WHERE '
                || 'xid >= pg_snapshot_xmin($1) AND NOT pg_visible_in_snapshot(xid, $1))'
                INTO untouched USING since;
            IF untouched THEN
                EXECUTE 'DROP TABLE outbox.' || name;
                dropped := dropped || name;
            END IF;
        END LOOP;
        RETURN dropped;
    END $$
    """,
)

DOWNGRADE = (
    "DROP FUNCTION outbox.drop_partitions(date[], pg_snapshot)",
    "DROP FUNCTION outbox.make_partition(date)",
)
