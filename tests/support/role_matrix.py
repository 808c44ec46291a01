"""Which role may do what, as meant and as the database has it; a new table needs a decision here."""

from collections import defaultdict
from typing import get_args

from sqlalchemy import Connection, text

from runtime.settings import Role

ROLES: tuple[Role, ...] = get_args(Role)
API, RELAY, ROOMS, RESULTS = ROLES
APPEND = "INSERT(headers key message_id topic value)"
ANSWER_KEY = "INSERT SELECT UPDATE(response_body response_status)"
CHANGE_RESERVATION = "UPDATE(reason status updated_at version)"
KEEP_LETTER = (
    "INSERT(attempts group_id headers key offset partition reason topic value) "
    "SELECT(digest group_id id offset partition state topic)"
)
LEAD = "INSERT SELECT UPDATE"
RULES = "closed closed_to_arrival closed_to_departure min_stay"
PLACE = "batch_snapshot epoch floor leased_until next_xid number owner position snapshot touched touches"

MAY: dict[str, dict[str, str]] = {
    "consumers": {ROOMS: "USAGE", RESULTS: "USAGE"},
    "outbox": {API: "USAGE", RELAY: "USAGE", ROOMS: "USAGE", RESULTS: "USAGE"},
    "reservations": {API: "USAGE", RESULTS: "USAGE"},
    "rooms": {API: "USAGE", ROOMS: "USAGE"},
    "consumers.dead_letter": {ROOMS: KEEP_LETTER, RESULTS: KEEP_LETTER},
    "consumers.dead_letter_id_seq": {},
    "outbox.acknowledgement": {},
    "outbox.blocked_key": {API: "SELECT", RELAY: "DELETE INSERT SELECT UPDATE"},
    "outbox.dead_letter": {},
    "outbox.dead_letter_id_seq": {},
    "outbox.drop_partitions(date[],pg_snapshot)": {RELAY: "EXECUTE"},
    "outbox.make_partition(date)": {RELAY: "EXECUTE"},
    "outbox.message": {
        API: f"{APPEND} SELECT(key_hash position xid)",
        RELAY: "SELECT",
        ROOMS: APPEND,
        RESULTS: APPEND,
    },
    "outbox.message_position_seq": {
        API: "USAGE",
        RELAY: "SELECT",
        ROOMS: "USAGE",
        RESULTS: "USAGE",
    },
    "outbox.relay": {RELAY: "DELETE INSERT SELECT UPDATE"},
    "outbox.replay": {},
    "outbox.replay_id_seq": {},
    "outbox.scheduled_job": {RELAY: LEAD, ROOMS: LEAD, RESULTS: LEAD},
    "outbox.shard": {API: "SELECT", RELAY: f"SELECT UPDATE({PLACE})"},
    "outbox.shard_id_seq": {},
    "outbox.topic": {API: "SELECT", ROOMS: "SELECT", RESULTS: "SELECT"},
    "reservations.idempotency_key": {API: ANSWER_KEY, RESULTS: "DELETE SELECT(created_at ctid)"},
    "reservations.reservation": {
        API: f"INSERT SELECT {CHANGE_RESERVATION}",
        RESULTS: f"SELECT {CHANGE_RESERVATION}",
    },
    "reservations.reservation_id_seq": {API: "USAGE"},
    "reservations.transition": {API: "INSERT SELECT", RESULTS: "INSERT SELECT"},
    "rooms.allocation": {ROOMS: "INSERT SELECT UPDATE(cancel_message_id state)"},
    "rooms.idempotency_key": {API: ANSWER_KEY, ROOMS: "DELETE SELECT(created_at ctid)"},
    "rooms.room": {API: "INSERT(id name) SELECT UPDATE(name)", ROOMS: "SELECT"},
    "rooms.room_night": {
        API: f"INSERT(capacity capacity_peak {RULES} night room_id) SELECT "
        f"UPDATE(capacity capacity_peak {RULES})",
        ROOMS: "SELECT UPDATE(taken)",
    },
}

GRANTED = text("""
    WITH granted (name, owner, acl, "column") AS (
        SELECT nspname::text, nspowner, nspacl, NULL FROM pg_namespace
        UNION ALL
        SELECT oid::regclass::text, relowner, relacl, NULL FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT relispartition
        UNION ALL
        SELECT attrelid::regclass::text, relowner, attacl, attname::text
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition
        UNION ALL
        SELECT oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner)), NULL
        FROM pg_proc
    )
    SELECT name, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS role,
           privilege_type, coalesce("column", '') AS "column"
    FROM granted LEFT JOIN aclexplode(acl) ON grantee <> owner
    WHERE split_part(name, '.', 1) IN ('consumers', 'outbox', 'reservations', 'rooms')
    ORDER BY privilege_type, "column"
""")


def granted(connection: Connection) -> dict[str, dict[str, str]]:
    """Who may do what, with the columns where it is not the whole table."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for name, role, privilege, column in connection.execute(GRANTED):
        of_role = found.setdefault(name, {})
        if role:
            of_role.setdefault(role, defaultdict(list))[privilege].append(column)
    return {
        name: {role: " ".join(map(_said, may.items())) for role, may in of_role.items()}
        for name, of_role in found.items()
    }


def _said(privilege: tuple[str, list[str]]) -> str:
    name, columns = privilege
    return name if columns == [""] else f"{name}({' '.join(sorted(columns))})"
