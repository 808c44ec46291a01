"""The tables of an audit, and what becomes of each message.

A message is known in Kafka by its header `ce_id`, and a record by the same.

    in the topic?  ── yes ──────────────────────────────────────────────► published
       no │
    skipped by an operator? ── yes ─────────────────────────────────────► skipped
       no │
    relayed, by its shard's cursor or, if its key is blocked, the key's?
          │ ── no ──► blocked, or waiting
      yes │
    without `ce_id`? ── yes ────────────────────────────────────────────► untraceable
       no │
    older than what its partition still keeps? ── yes ──────────────────► expired
       no └─────────────────────────────────────────────────────────────► missing
"""

from relay.audit.snapshot import CLOCKS_DIFFER_S, topics

SCHEMA = f"""
CREATE TABLE bounds (since, until);
-- From when on the outbox of a database is complete; 0 if retention has dropped nothing of it.
CREATE TABLE home (id INTEGER PRIMARY KEY, name, complete_from, has_commit_times);
CREATE TABLE message (
    home INTEGER, position INTEGER, message_id, event_id, topic, key, source, xid INTEGER,
    created_at, appended_at, committed_at, relayed, blocked, skipped
);
-- Sources of the newest messages, whatever the window.
CREATE TABLE recent (home INTEGER, source);
CREATE TABLE record ({topics.RECORD_COLUMNS}, event_id, published_at);
-- Messages outside of the window or the snapshot, as far as records ask for them.
CREATE TABLE known (event_id);
CREATE TABLE acknowledged (
    home INTEGER, kind, topic, message_id, acknowledged_by, acknowledged_at, reason,
    PRIMARY KEY (home, kind, topic, message_id)
);
CREATE TABLE inversion (
    outcome, reason, home INTEGER, topic, key, message_id, position INTEGER, partition, offset,
    overtaken_id, overtaken_position, overtaken_offset
);
{topics.SCHEMA}
"""

INDEXES = """
CREATE INDEX record_place ON record (topic, partition, offset);
CREATE INDEX record_event ON record (event_id, topic, partition, offset);
CREATE INDEX message_event ON message (event_id);
CREATE INDEX known_event ON known (event_id);
"""

# Records leave a partition oldest first, and are published after their messages are created. A partition
# that was emptied tells no time: until ever. Where reading began later, none that count are gone.
TRIMMED = f"""
CREATE TABLE trimmed AS
    SELECT topic, partition, {CLOCKS_DIFFER_S} + coalesce(
        (SELECT published_at FROM record
         WHERE record.topic = place.topic AND record.partition = place.partition AND offset >= low
         ORDER BY offset LIMIT 1),
        1e18) AS until
    FROM partition AS place WHERE low > 0 AND begun <= low;
"""

# For another partitioner than the relay's own: a key may be anywhere.
TRIMMED_ANYWHERE = f"""
{TRIMMED}
CREATE TABLE trimmed_anywhere AS
    SELECT place.topic, place.partition, max(until) AS until
    FROM partition AS place JOIN trimmed ON trimmed.topic = place.topic GROUP BY 1, 2;
DROP TABLE trimmed;
ALTER TABLE trimmed_anywhere RENAME TO trimmed;
"""

_TRIMMED_UNTIL = """
    SELECT until FROM trimmed
    WHERE trimmed.topic = message.topic AND trimmed.partition = partition_of(
        message.key, (SELECT count(*) FROM partition AS place WHERE place.topic = message.topic))
"""

# `partition` is of messages whose records are all in one, so that the first delivery is known. `relays`
# counts the records of no mend or replay; `run` is whose the first delivery is, if not the relay's.
JUDGED = f"""
CREATE TABLE delivery AS
    SELECT event_id, topic, count(*) AS records, min(offset) AS offset,
           min(partition) AS partition, max(partition) AS partition_max,
           sum(run IS NULL) AS relays, min(iif(run IS NULL, offset, NULL)) AS relays_offset
    FROM record WHERE event_id IS NOT NULL GROUP BY event_id, topic;
CREATE INDEX delivery_event ON delivery (event_id, topic);

CREATE TABLE judged AS
    SELECT message.*, coalesce(records, 0) AS records, coalesce(relays, 0) AS relays, offset,
           CASE WHEN partition = partition_max THEN partition END AS partition,
           CASE WHEN coalesce(relays_offset > offset, records > 0) THEN (
               SELECT run FROM record
               WHERE record.topic = message.topic AND record.partition = delivery.partition
                 AND record.offset = delivery.offset)
           END AS run,
           CASE
               WHEN records > 0 THEN 'published'
               WHEN skipped THEN 'skipped'
               WHEN NOT relayed AND blocked THEN 'blocked'
               WHEN NOT relayed THEN 'waiting'
               WHEN message.event_id IS NULL THEN 'untraceable'
               WHEN created_at < ({_TRIMMED_UNTIL}) THEN 'expired'
               ELSE 'missing'
           END AS status
    FROM message LEFT JOIN delivery
        ON delivery.event_id = message.event_id AND delivery.topic = message.topic;
CREATE INDEX judged_status ON judged (topic, status, home, position);
CREATE INDEX judged_repeated ON judged (topic, home, position) WHERE records > 1;
"""

# What makes an audit fail, unless somebody knows of it. Repetitions by the relay count where delivery is
# to be exactly once.
FINDINGS = """
CREATE TABLE finding AS
    SELECT found.*, acknowledged.message_id IS NOT NULL AS is_acknowledged
    FROM (
        SELECT home, 'missing' AS kind, topic, message_id, position, created_at
        FROM judged WHERE status = 'missing'
        UNION ALL SELECT home, 'duplicated', topic, message_id, position, created_at
        FROM judged WHERE relays > 1
        UNION ALL SELECT home, outcome, topic, message_id, position, NULL
        FROM inversion WHERE outcome = 'out_of_order'
    ) AS found LEFT JOIN acknowledged USING (home, kind, topic, message_id);
"""

# Of these outboxes by their source, of the window by their own time, younger than the oldest message that
# the outbox can be expected to have; and yet no message has their id.
UNKNOWN_RECORDS = f"""
CREATE TABLE source AS
    SELECT source AS name, max(complete_from) AS complete_from
    FROM (SELECT home, source FROM message UNION SELECT home, source FROM recent)
    JOIN home ON home.id = home WHERE source IS NOT NULL GROUP BY source;
CREATE UNIQUE INDEX source_name ON source (name);

CREATE TABLE unknown_record AS
    SELECT record.topic, partition, offset, key, event_id, source
    FROM record JOIN source ON source.name = record.source JOIN bounds
    WHERE event_id IS NOT NULL
      AND coalesce(ce_time, published_at) >= since AND coalesce(ce_time, published_at) < until
      AND (complete_from = 0
           OR coalesce(ce_time, published_at) >= complete_from + {CLOCKS_DIFFER_S})
      AND NOT EXISTS (SELECT 1 FROM message WHERE message.event_id = record.event_id);
CREATE INDEX unknown_record_event ON unknown_record (event_id);
"""
UNKNOWN_IDS = "SELECT DISTINCT event_id FROM unknown_record"
EXPLAINED = "DELETE FROM unknown_record WHERE event_id IN (SELECT event_id FROM known)"
