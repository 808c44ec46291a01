"""I2, I8: what was committed is in Kafka, in order, and no other message of innbox is."""

from ops.verify.verdict import COUNTS, Check, Invariant, Remark, lost
from relay.audit.snapshot import CLOCKS_DIFFER_S

GONE_FROM_KAFKA = """
    SELECT count(*) FROM message JOIN trimmed USING (topic)
    WHERE relayed AND created_at < until AND message_id NOT IN (SELECT message_id FROM record)
"""

GONE_FROM_OUTBOX = f"""
    SELECT count(*) FROM record JOIN context USING (source)
    WHERE complete_from > 0 AND ce_time < complete_from + {CLOCKS_DIFFER_S}
      AND message_id NOT IN (SELECT message_id FROM message)
"""

I2 = Invariant(
    "I2",
    "Every committed message is in Kafka, and no message of innbox is in Kafka that was not committed.",
    "outbox messages that the relay's cursor has passed and all committed records, read from the "
    "first to the last, compared by id, topic, key and value",
    "SELECT (SELECT count(*) FROM message WHERE relayed) + (SELECT count(*) FROM record)",
    (
        lost("""
            SELECT printf('message %s (%s, key %s, position %d) is relayed but not in Kafka',
                          message_id, topic, key, position)
            FROM message LEFT JOIN trimmed USING (topic)
            WHERE relayed AND created_at >= coalesce(until, 0)
              AND message_id NOT IN (SELECT message_id FROM record)
        """),
        # What is in Kafka was committed before it was relayed: had that been after the snapshot, it
        # would be among the late messages. For those that retention may have dropped there is only
        # their own time.
        Check(f"""
            SELECT printf('record %s of %s, partition %d, offset %d (reservation %s) has no message',
                          message_id, topic, partition, offset, coalesce(reservation_id, 'unreadable'))
            FROM record JOIN context USING (source)
            WHERE (complete_from = 0 OR coalesce(ce_time, 1e18) >= complete_from + {CLOCKS_DIFFER_S})
              AND message_id NOT IN (SELECT message_id FROM message)
        """),
        Check("""
            SELECT printf('record %s of %s, partition %d, offset %d '
                          || 'differs from its message (%s, key %s)',
                          message_id, record.topic, partition, offset, message.topic, message.key)
            FROM record JOIN message USING (message_id)
            WHERE (record.topic, record.key, record.value, record.source)
                IS NOT (message.topic, message.key, message.value, message.source)
        """),
    ),
    (
        Remark(COUNTS["backlog"], "{n} messages are committed and wait to be relayed"),
        Remark(
            COUNTS["repeated_records"],
            "{n} records repeat an earlier one, as at-least-once delivery may",
        ),
        Remark("SELECT count(*) FROM foreign_record", "{n} records are somebody else's"),
        Remark(GONE_FROM_KAFKA, "{n} messages are older than what Kafka keeps: exempt"),
        Remark(GONE_FROM_OUTBOX, "{n} records are older than what the outbox keeps: exempt"),
    ),
)

I8 = Invariant(
    "I8",
    "First deliveries of a key are in order.",
    "first deliveries in Kafka compared with the outbox, for each topic, key and reservation",
    "SELECT count(*) FROM message WHERE message_id IN (SELECT message_id FROM record)",
    (
        # Messages of one reservation and topic have one key, hence one partition, and their writers
        # share a lock, so positions are in commit order; writers of a key for different reservations
        # share none. Where a first delivery may have been trimmed, what is left of a message may be a
        # repetition: left out. What a mend or a replay delivered first, after the brokers had lost
        # it, is compared within its run.
        Check("""
            WITH first AS (
                SELECT message_id, topic, partition, run, min(offset) AS offset
                FROM record GROUP BY message_id, topic
            ), delivered AS (
                SELECT message_id, topic, reservation_id, partition, offset,
                       lag(message_id) OVER earlier AS earlier_id,
                       lag(partition) OVER earlier AS earlier_partition,
                       lag(offset) OVER earlier AS earlier_offset
                FROM message JOIN first USING (message_id, topic) LEFT JOIN trimmed USING (topic)
                WHERE NOT late AND reservation_id IS NOT NULL AND created_at >= coalesce(until, 0)
                WINDOW earlier AS (PARTITION BY source, topic, key, reservation_id, run ORDER BY position)
            )
            SELECT printf('reservation %d: message %s came before message %s '
                          || '(%s, partition %d, offset %d)',
                          reservation_id, message_id, earlier_id, topic, partition, offset)
            FROM delivered WHERE partition = earlier_partition AND offset < earlier_offset
        """),
    ),
)
