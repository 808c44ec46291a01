"""I1, I12: the history of a reservation, its messages and the rooms' answers tell one story."""

from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE
from ops.verify.verdict import Check, Invariant, Remark, lost
from relay.audit.snapshot import CLOCKS_DIFFER_S

I1 = Invariant(
    "I1",
    "Each transition of a reservation has exactly one message, and no message is without one.",
    "transitions and outbox messages compared by id, topic, key and value; what settled them with "
    "the rooms' results; reservations with their newest transition",
    "SELECT (SELECT count(*) FROM transition) + (SELECT count(*) FROM request WHERE NOT late)",
    (
        lost("""
            SELECT printf('reservation %d, version %d (%s): its message %s is not in the outbox',
                          reservation_id, version, status, message_id)
            FROM sent JOIN kept
            WHERE created_at >= requests_from
              AND message_id NOT IN (SELECT message_id FROM request)
        """),
        Check("""
            SELECT printf('message %s is in the outbox %d times', message_id, count(*))
            FROM message GROUP BY message_id HAVING count(*) > 1
        """),
        Check("""
            SELECT printf('message %s belongs to %d transitions', message_id, count(*))
            FROM transition GROUP BY message_id HAVING count(*) > 1
        """),
        Check("""
            SELECT printf('message %s (%s, reservation %s) belongs to no transition',
                          message_id, topic, coalesce(reservation_id, 'unreadable'))
            FROM request
            WHERE NOT late AND message_id NOT IN (SELECT message_id FROM sent)
        """),
        Check(f"""
            SELECT printf('reservation %d, version %d: its message %s has another topic, key or stay',
                          reservation.id, sent.version, request.message_id)
            FROM sent
            JOIN reservation ON reservation.id = sent.reservation_id
            JOIN request USING (message_id)
            WHERE (request.topic, request.key, request.reservation_id, request.room_id,
                   request.check_in, request.check_out)
                IS NOT (iif(sent.status = 'PENDING', '{ROOM_RESERVE}', '{ROOM_CANCEL}'),
                        CAST(reservation.room_id AS text), reservation.id, reservation.room_id,
                        reservation.check_in, reservation.check_out)
        """),
        # An answer is no older than the request before it: that one's time tells whether retention
        # may have dropped the answer.
        Check(f"""
            SELECT printf('reservation %d, version %d (%s): the rooms gave no result %s',
                          settled.reservation_id, settled.version, settled.status, settled.message_id)
            FROM settled JOIN kept
            LEFT JOIN transition AS asked
                ON asked.reservation_id = settled.reservation_id AND asked.version = settled.version - 1
            WHERE (results_from = 0
                   OR coalesce(asked.created_at, settled.created_at) >= results_from + {CLOCKS_DIFFER_S})
              AND settled.message_id NOT IN (SELECT message_id FROM result)
              AND settled.message_id NOT IN (
                  SELECT message_id FROM record WHERE topic = '{RESERVATION_RESULT}'
              )
        """),
        Check("""
            SELECT printf('reservation %d, version %d (%s): result %s says %s of reservation %s',
                          settled.reservation_id, settled.version, settled.status, settled.message_id,
                          coalesce(result.status, 'nothing'),
                          coalesce(result.reservation_id, 'unreadable'))
            FROM settled JOIN result USING (message_id)
            WHERE (settled.reservation_id, settled.status) IS NOT (
                result.reservation_id,
                CASE result.status WHEN 'SUCCESS' THEN 'CONFIRMED' WHEN 'FAILURE' THEN 'REJECTED'
                                   WHEN 'CANCEL' THEN 'CANCELLED' END
            )
        """),
        # Status and reason beside max() are those of the newest version: SQLite says so.
        Check("""
            WITH newest AS MATERIALIZED (
                SELECT reservation_id, count(*) AS count, max(version) AS version, status, reason
                FROM transition GROUP BY reservation_id
            )
            SELECT printf('reservation %d is %s, version %d, '
                          || 'but its history has %d versions up to %s, %s',
                          id, reservation.status, reservation.version, coalesce(newest.count, 0),
                          coalesce(newest.version, 'none'), coalesce(newest.status, 'none'))
            FROM reservation LEFT JOIN newest ON reservation_id = id
            WHERE (reservation.version, reservation.version, reservation.status, reservation.reason)
                IS NOT (newest.count, newest.version, newest.status, newest.reason)
        """),
    ),
    (
        Remark(
            "SELECT count(*) FROM transition JOIN kept WHERE created_at < requests_from",
            "{n} transitions are older than what the outbox keeps: exempt",
        ),
    ),
)

I12 = Invariant(
    "I12",
    "A terminal status never changes back, and every status follows from the one before.",
    "each transition compared with the one before it",
    "SELECT count(*) FROM transition",
    (
        Check("""
            WITH step AS (
                SELECT reservation_id, version, status AS after,
                       lag(status) OVER (PARTITION BY reservation_id ORDER BY version) AS before
                FROM transition
            )
            SELECT printf('reservation %d, version %d: from %s to %s',
                          reservation_id, version, coalesce(before, 'nothing'), after)
            FROM step
            WHERE (coalesce(before, 'nothing'), after) NOT IN (VALUES
                ('nothing', 'PENDING'),
                ('PENDING', 'PENDING'), ('PENDING', 'CONFIRMED'), ('PENDING', 'REJECTED'),
                ('PENDING', 'CANCELLING'), ('CONFIRMED', 'CANCELLING'),
                ('CANCELLING', 'CANCELLING'), ('CANCELLING', 'CANCELLED')
            )
        """),
    ),
)
