"""I13: what is published is consumed: each record that its group's offset has passed had its effect.

The effect is an allocation, a released one, or a settled reservation, whichever of several records
brought it about; or a dead letter, whatever was decided about it. What no offset has passed is under way.
"""

from domain.messages import (
    RESERVATION_RESULT,
    RESULTS_GROUP,
    ROOM_CANCEL,
    ROOM_RESERVE,
    ROOMS_GROUP,
)
from ops.verify.verdict import Check, Invariant, Remark

GROUPS = {ROOMS_GROUP: (ROOM_RESERVE, ROOM_CANCEL), RESULTS_GROUP: (RESERVATION_RESULT,)}

_PASSED = """
    SELECT record.* FROM record JOIN passed USING (topic, partition)
    WHERE record.offset < passed.offset AND NOT EXISTS (
        SELECT 1 FROM set_aside AS letter
        WHERE (letter.topic, letter.partition, letter.offset)
            = (record.topic, record.partition, record.offset)
    )
"""

# The rows of `record` that were passed without an effect, and what there is instead.
UNCONSUMED = f"""
    WITH behind AS ({_PASSED})
    SELECT behind.*, 'the reservation has no allocation' AS instead
    FROM behind LEFT JOIN allocation USING (reservation_id)
    WHERE topic = '{ROOM_RESERVE}' AND allocation.state IS NULL
    UNION ALL
    SELECT behind.*, 'the allocation is ' || coalesce(allocation.state, 'missing')
    FROM behind LEFT JOIN allocation USING (reservation_id)
    WHERE topic = '{ROOM_CANCEL}' AND allocation.state IS NOT 'RELEASED'
    UNION ALL
    SELECT behind.*, 'the reservation is ' || coalesce(reservation.status, 'missing')
    FROM behind LEFT JOIN reservation ON reservation.id = reservation_id
    WHERE topic = '{RESERVATION_RESULT}' AND (
        reservation.status IS NULL OR reservation.status = 'PENDING'
        OR (behind.status = 'CANCEL' AND reservation.status = 'CANCELLING'))
"""

NEVER_CONSUMED = f"""
    SELECT printf('record %s of %s, partition %d, offset %d (reservation %s) was passed over: %s',
                  message_id, topic, partition, offset, coalesce(reservation_id, 'unreadable'), instead)
    FROM ({UNCONSUMED})
"""

NOT_YET_CONSUMED = """
    SELECT count(*) FROM record JOIN passed USING (topic, partition)
    WHERE record.offset >= passed.offset
"""

I13 = Invariant(
    "I13",
    "Every published message that its consumers are past had its effect.",
    "records before the offsets of their consumer group, compared with allocations, reservations "
    "and dead letters",
    "SELECT count(*) FROM record JOIN passed USING (topic, partition) "
    "WHERE record.offset < passed.offset",
    (Check(NEVER_CONSUMED, "lost"),),
    (Remark(NOT_YET_CONSUMED, "{n} records are published and wait to be consumed"),),
)

CONSUMPTION = (I13,)
