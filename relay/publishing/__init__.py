"""From rows of the outbox to records in Kafka, and where a shard's place is kept meanwhile.

producer       one idempotent producer: rows in their order, each acknowledged
transactional  the same, in Kafka transactions
cursor_store   a shard's place, in the mode that is configured: in Postgres alone, or with its messages
kafka_cursors  the topic of cursors: what is in it, and how the last one is found
errors         why publishing ended before its end
faults         whose fault an error of the client is
"""
