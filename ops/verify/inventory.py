"""I3, I4, I5, I6, I7, I9: what the rooms hold is what was asked for, once, and never too much."""

from ops.verify.verdict import COUNTS, Check, Invariant, Remark, doubled, lost, oversold

I3 = Invariant(
    "I3",
    "A reservation has one effect, however often it is asked for.",
    "allocations counted by reservation and compared with what was reserved; the rooms' results "
    "compared with each other",
    "SELECT (SELECT count(*) FROM allocation) + (SELECT count(*) FROM result WHERE NOT late)",
    (
        doubled("""
            SELECT printf('reservation %d has %d allocations', reservation_id, count(*))
            FROM allocation GROUP BY reservation_id HAVING count(*) > 1
        """),
        doubled("""
            SELECT printf('reservation %d was answered both SUCCESS and FAILURE', reservation_id)
            FROM answer WHERE held_at IS NOT NULL AND refused_at IS NOT NULL
        """),
        doubled("""
            SELECT printf('reservation %d was answered SUCCESS after CANCEL', reservation_id)
            FROM answer WHERE held_again_at > released_at
        """),
        Check("""
            SELECT printf('reservation %d is for room %d from %s to %s, '
                          || 'its allocation for room %d from %s to %s',
                          id, reservation.room_id, reservation.check_in, reservation.check_out,
                          allocation.room_id, allocation.check_in, allocation.check_out)
            FROM reservation JOIN allocation ON reservation_id = id
            WHERE (reservation.room_id, reservation.check_in, reservation.check_out)
                IS NOT (allocation.room_id, allocation.check_in, allocation.check_out)
        """),
    ),
    (
        # A redelivered or repeated request is answered again from what the allocation remembers.
        Remark(
            "SELECT count(*) - count(DISTINCT reservation_id || status) FROM result WHERE NOT late",
            "{n} results repeat an earlier answer, without an effect",
        ),
    ),
)

I4 = Invariant(
    "I4",
    "What is taken of a night is the number of allocations that hold it.",
    "allocations in HELD counted for each room night",
    "SELECT count(*) FROM room_night",
    (
        Check("""
            SELECT printf('room %d, night %s: taken %d, held by %d allocations',
                          room_id, night, taken, count(reservation_id))
            FROM room_night LEFT JOIN held_night USING (room_id, night)
            GROUP BY room_id, night HAVING taken <> count(reservation_id)
        """),
    ),
)

I5 = Invariant(
    "I5",
    "No night was ever over its capacity.",
    "room nights as they are, the constraint that guards them, and the rooms' results replayed in "
    "order with a running sum for each room night",
    "SELECT (SELECT count(*) FROM room_night) + (SELECT count(*) FROM change)",
    (
        oversold("""
            SELECT printf('room %d, night %s: taken %d of %d', room_id, night, taken, capacity)
            FROM room_night WHERE taken NOT BETWEEN 0 AND capacity
        """),
        # Nights that are beyond it now are already told by the check above.
        oversold("""
            WITH running AS (
                SELECT room_id, night,
                       sum(step) OVER (PARTITION BY room_id, night ORDER BY position) AS taken
                FROM change
            ), most AS (
                SELECT room_id, night, max(taken) AS taken FROM running GROUP BY room_id, night
            )
            SELECT printf('room %d, night %s: the results took %d, and there were never more than %d',
                          room_id, night, most.taken, capacity_peak)
            FROM room_night JOIN most USING (room_id, night)
            WHERE most.taken > capacity_peak AND room_night.taken BETWEEN 0 AND capacity
        """),
        Check("""
            SELECT 'the constraint that keeps taken within capacity is missing or not validated'
            WHERE NOT EXISTS (SELECT 1 FROM guard WHERE definition LIKE '%taken <= capacity%')
        """),
    ),
)

I6 = Invariant(
    "I6",
    "Every night that is given up becomes free again.",
    "what is taken of each room night recomputed from the messages alone: SUCCESS without CANCEL",
    "SELECT count(*) FROM room_night",
    (
        Check("""
            WITH told AS MATERIALIZED (
                SELECT room_id, night, sum(step) AS taken FROM change GROUP BY room_id, night
            )
            SELECT printf('room %d, night %s: taken %d, but the messages leave %d',
                          room_id, night, room_night.taken, coalesce(told.taken, 0))
            FROM room_night LEFT JOIN told USING (room_id, night)
            WHERE room_night.taken <> coalesce(told.taken, 0)
        """),
    ),
    (
        Remark(
            "SELECT count(*) FROM held WHERE held_at = 0",
            "{n} stays were taken before the oldest result kept: their allocations speak for them",
        ),
    ),
)

I7 = Invariant(
    "I7",
    "A stay has all of its nights or none.",
    "every night of every allocation in HELD looked up among the room nights",
    "SELECT count(*) FROM held_night",
    (
        Check("""
            SELECT printf('reservation %d holds room %d without night %s', reservation_id, room_id, night)
            FROM held_night LEFT JOIN room_night USING (room_id, night)
            WHERE coalesce(taken, 0) < 1
        """),
    ),
)

I9 = Invariant(
    "I9",
    "At rest, a reservation is CONFIRMED if and only if its room is HELD.",
    "reservations and allocations compared one by one; open reservations are still on their way",
    "SELECT count(*) FROM reservation",
    (
        # Where the contexts have databases of their own, the rooms are read a moment later, and may
        # already have done what was asked after the reservations were read. The late messages name
        # those reservations.
        lost("""
            SELECT printf('reservation %d is CONFIRMED, its allocation is %s',
                          id, coalesce(state, 'missing'))
            FROM reservation LEFT JOIN allocation ON reservation_id = id
            WHERE status = 'CONFIRMED' AND state IS NOT 'HELD'
              AND id NOT IN (SELECT reservation_id FROM request WHERE late AND reservation_id IS NOT NULL)
        """),
        Check("""
            SELECT printf('reservation %d holds room %d but is %s',
                          reservation_id, allocation.room_id, coalesce(status, 'missing'))
            FROM allocation LEFT JOIN reservation ON id = reservation_id
            WHERE state = 'HELD' AND coalesce(status, 'missing') IN ('REJECTED', 'CANCELLED', 'missing')
              AND reservation_id NOT IN (
                  SELECT reservation_id FROM request WHERE late AND reservation_id IS NOT NULL
                  UNION ALL
                  SELECT reservation_id FROM foreign_record WHERE reservation_id IS NOT NULL
              )
        """),
    ),
    (
        Remark(COUNTS["open"], "{n} reservations are open and exempt"),
        Remark(COUNTS["open_dead_letters"], "{n} dead letters wait for a decision"),
    ),
)
