"""A role for each process, and members' rows behind row-level security.

Each process has the rights that its statements need, and no more; it takes its role when it connects.
Roles belong to the cluster: other databases may use them, and create them at the same time. Operators'
logins, above all the one that migrates, own the tables and still see all rows.

Row-level security is not forced upon the owner: `verify`, the audit and backups read all rows, and so
does Postgres itself when it checks a foreign key. Only the API and the results consumer have policies;
a grant to any other role shows no rows.

A process owns no table: an owner may add a trigger, which would run with the rights of each writer. The
relay maintains partitions through the outbox's functions (version 4), which run as the owner.
"""

from alembic import op

from outbox.schema.operations import downgrade_outbox, upgrade_outbox

revision = "0009"
down_revision = "0008"

ROLES = ("innbox_api", "innbox_relay", "innbox_rooms", "innbox_results")
SCHEMAS = "reservations, rooms, consumers, outbox"

_NAMES = f"ARRAY[{', '.join(repr(role) for role in ROLES)}]"

# Migrations of two databases of one cluster may run at once: the second waits, and finds the role.
CREATE_ROLES = f"""
    DO $$
    DECLARE
        wanted text;
        missing text := '';
    BEGIN
        FOREACH wanted IN ARRAY {_NAMES} LOOP
            BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
                    EXECUTE 'CREATE ROLE ' || wanted || ' NOLOGIN';
                END IF;
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    missing := missing || ' CREATE ROLE ' || wanted || '; GRANT ' || wanted
                        || ' TO ' || quote_ident(current_user) || ';';
            END;
        END LOOP;
        IF missing <> '' THEN
            RAISE insufficient_privilege USING MESSAGE =
                current_user || ' may not create roles; have somebody who may run:' || missing;
        END IF;
    END $$
"""

# From Postgres 16 on, the creator of a role is not a member of it. Membership is for processes that
# connect as the migrating login; others have logins of their own, so the grant may fail.
JOIN_ROLES = f"""
    DO $$
    DECLARE
        joined text;
        is_modern boolean := current_setting('server_version_num')::integer >= 160000;
        may_take text := CASE WHEN is_modern THEN 'SET' ELSE 'MEMBER' END;
    BEGIN
        FOREACH joined IN ARRAY {_NAMES} LOOP
            CONTINUE WHEN pg_has_role(current_user, joined, may_take);
            BEGIN
                EXECUTE 'GRANT ' || joined || ' TO CURRENT_USER'
                    || CASE WHEN is_modern THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
            EXCEPTION
                WHEN unique_violation OR insufficient_privilege THEN NULL;
            END;
        END LOOP;
    END $$
"""

# All tables whose row-level security changes, at once. Writers lock them in more than one order, so a
# deadlock with a writer is possible: each attempt gives up long before Postgres looks for deadlocks
# (after 1 s) and might end the writer. The end of the block releases the locks of the attempt.
GUARDED = [f"reservations.{name}" for name in ("reservation", "transition", "idempotency_key")]
LOCK_GUARDED = f"""
    DO $$
    DECLARE bound text := current_setting('lock_timeout');
    BEGIN
        FOR attempt IN 1..50 LOOP
            BEGIN
                SET LOCAL lock_timeout = '100ms';
                LOCK TABLE {", ".join(GUARDED)} IN ACCESS EXCLUSIVE MODE;
                PERFORM set_config('lock_timeout', bound, true);
                RETURN;
            EXCEPTION
                WHEN lock_not_available THEN NULL;
            END;
        END LOOP;
        RAISE lock_not_available USING MESSAGE =
            'somebody uses reservations for long: run the migration again when they are done';
    END $$
"""

NOTHING_FOR_EVERYBODY = [
    f"REVOKE ALL ON SCHEMA {SCHEMAS} FROM PUBLIC",
    f"REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMAS} FROM PUBLIC",
    f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {SCHEMAS} FROM PUBLIC",
    f"REVOKE ALL ON ALL ROUTINES IN SCHEMA {SCHEMAS} FROM PUBLIC",
]

# FOR UPDATE needs the right to update some column of the table.
GRANTS = [
    "GRANT USAGE ON SCHEMA reservations TO innbox_api, innbox_results",
    "GRANT USAGE ON SCHEMA rooms TO innbox_api, innbox_rooms",
    "GRANT USAGE ON SCHEMA consumers TO innbox_rooms, innbox_results",
    "GRANT USAGE ON SCHEMA outbox TO innbox_api, innbox_relay, innbox_rooms, innbox_results",
    # To append.
    "GRANT SELECT ON outbox.topic TO innbox_api, innbox_rooms, innbox_results",
    "GRANT USAGE ON SEQUENCE outbox.message_position_seq TO innbox_api, innbox_rooms, innbox_results",
    """
    GRANT INSERT (message_id, topic, key, value, headers) ON outbox.message
        TO innbox_api, innbox_rooms, innbox_results
    """,
    # Reservations: member, room and nights never change.
    "GRANT SELECT, INSERT ON reservations.reservation TO innbox_api",
    "GRANT USAGE ON SEQUENCE reservations.reservation_id_seq TO innbox_api",
    "GRANT SELECT ON reservations.reservation TO innbox_results",
    """
    GRANT UPDATE (status, reason, version, updated_at) ON reservations.reservation
        TO innbox_api, innbox_results
    """,
    "GRANT SELECT, INSERT ON reservations.transition TO innbox_api, innbox_results",
    "GRANT SELECT, INSERT ON reservations.idempotency_key TO innbox_api",
    "GRANT UPDATE (response_status, response_body) ON reservations.idempotency_key TO innbox_api",
    "GRANT SELECT (ctid, created_at), DELETE ON reservations.idempotency_key TO innbox_results",
    # Rooms: the API opens nights, and only the rooms process writes `taken`.
    "GRANT SELECT ON rooms.room TO innbox_api, innbox_rooms",
    "GRANT INSERT (id, name), UPDATE (name) ON rooms.room TO innbox_api",
    "GRANT SELECT ON rooms.room_night TO innbox_api, innbox_rooms",
    """
    GRANT INSERT (room_id, night, capacity, capacity_peak,
                  closed, min_stay, closed_to_arrival, closed_to_departure),
          UPDATE (capacity, capacity_peak,
                  closed, min_stay, closed_to_arrival, closed_to_departure)
        ON rooms.room_night TO innbox_api
    """,
    "GRANT UPDATE (taken) ON rooms.room_night TO innbox_rooms",
    "GRANT SELECT, INSERT, UPDATE (state, cancel_message_id) ON rooms.allocation TO innbox_rooms",
    "GRANT SELECT, INSERT ON rooms.idempotency_key TO innbox_api",
    "GRANT UPDATE (response_status, response_body) ON rooms.idempotency_key TO innbox_api",
    "GRANT SELECT (ctid, created_at), DELETE ON rooms.idempotency_key TO innbox_rooms",
    # Dead letters: written by consumers, decided by operators.
    """
    GRANT INSERT (group_id, topic, partition, "offset", key, value, headers, reason, attempts),
          SELECT (topic, partition, "offset")
        ON consumers.dead_letter TO innbox_rooms, innbox_results
    """,
    # The relay: it moves cursors, but changes neither the set of shards nor dead letters. It makes and
    # drops partitions through functions, and reads the default partition for rows to move.
    "GRANT SELECT ON outbox.message, outbox.message_default TO innbox_relay",
    """
    GRANT EXECUTE ON FUNCTION outbox.make_partition(date), outbox.drop_partitions(date[], pg_snapshot)
        TO innbox_relay
    """,
    "GRANT SELECT ON SEQUENCE outbox.message_position_seq TO innbox_relay",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.relay, outbox.blocked_key TO innbox_relay",
    """
    GRANT SELECT,
          UPDATE (snapshot, batch_snapshot, position, floor, next_xid, number, epoch, owner,
                  leased_until, touched, touches)
        ON outbox.shard TO innbox_relay
    """,
    # For GET /v1/operations.
    "GRANT SELECT ON outbox.shard, outbox.blocked_key TO innbox_api",
    "GRANT SELECT (position, xid, key_hash) ON outbox.message TO innbox_api",
]

# Only after PUBLIC has lost the right to call them.
RUN_AS_OWNER = [
    "ALTER FUNCTION outbox.make_partition(date) SECURITY DEFINER",
    "ALTER FUNCTION outbox.drop_partitions(date[], pg_snapshot) SECURITY DEFINER",
]

# After the transaction that it was local to, a setting is the empty string. CASE, because OR may
# evaluate both of its sides, and `any` is no number.
OF_THE_MEMBER = """
    CASE current_setting('innbox.member_id', true)
        WHEN 'any' THEN true
        ELSE member_id = nullif(current_setting('innbox.member_id', true), '')::bigint
    END
"""
# One statement writes a transition and its reservation, which a policy could not see yet: so the foreign
# key and the primary key guard a transition, and no policy.
POLICIES = {
    "of_the_member ON reservations.reservation": f"TO innbox_api USING ({OF_THE_MEMBER})",
    "of_the_member ON reservations.idempotency_key": f"TO innbox_api USING ({OF_THE_MEMBER})",
    "of_the_member ON reservations.transition": """
        FOR SELECT TO innbox_api
        USING (EXISTS (SELECT FROM reservations.reservation WHERE id = reservation_id))
    """,
    "recorded ON reservations.transition": "FOR INSERT TO innbox_api WITH CHECK (true)",
    "of_everybody ON reservations.reservation": "TO innbox_results USING (true)",
    "of_everybody ON reservations.idempotency_key": "TO innbox_results USING (true)",
    "of_everybody ON reservations.transition": "TO innbox_results USING (true)",
}
DROP_POLICIES = [f"DROP POLICY IF EXISTS {name}" for name in POLICIES]
CREATE_POLICIES = [f"CREATE POLICY {name} {rule}" for name, rule in POLICIES.items()]

REVOKES = [
    f"REVOKE ALL ON {what} {SCHEMAS} FROM {', '.join(ROLES)}"
    for what in ("ALL TABLES IN SCHEMA", "ALL SEQUENCES IN SCHEMA", "SCHEMA")
]

# A role stays if another database grants it a right, or if another login is a member of it.
DROP_ROLES = f"""
    DO $$
    DECLARE unused text;
    BEGIN
        FOR unused IN
            SELECT rolname FROM pg_roles
            WHERE rolname = ANY ({_NAMES}) AND NOT rolcanlogin AND NOT EXISTS (
                SELECT FROM pg_auth_members JOIN pg_roles AS login ON login.oid = member
                WHERE roleid = pg_roles.oid AND login.rolname <> current_user)
        LOOP
            BEGIN
                EXECUTE 'DROP ROLE ' || unused;
            EXCEPTION
                WHEN dependent_objects_still_exist OR insufficient_privilege OR undefined_object
                THEN NULL;
            END;
        END LOOP;
    END $$
"""


def upgrade() -> None:
    """Repeatable as a script: a second run restores rights that a restore or an operator removed."""
    _execute(CREATE_ROLES, JOIN_ROLES, LOCK_GUARDED)
    upgrade_outbox(4, since=3)
    _execute(*NOTHING_FOR_EVERYBODY, *RUN_AS_OWNER, *GRANTS)
    _execute(*DROP_POLICIES, *CREATE_POLICIES, *_row_level_security("ENABLE"))


def downgrade() -> None:
    _execute(LOCK_GUARDED, *_row_level_security("DISABLE"), *DROP_POLICIES, *REVOKES)
    downgrade_outbox(3, since=4)
    _execute(DROP_ROLES)


def _execute(*statements: str) -> None:
    for statement in statements:
        op.execute(statement)


def _row_level_security(change: str) -> list[str]:
    return [f"ALTER TABLE {table} {change} ROW LEVEL SECURITY" for table in GUARDED]
