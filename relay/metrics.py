"""What a relay counts."""

from prometheus_client import Counter, Gauge

PUBLISHED = Counter("innbox_relay_messages", "Messages acknowledged by the brokers.")
BATCHES = Counter("innbox_relay_batches", "Readings published and recorded.")
TAKEOVERS = Counter("innbox_relay_claims", "Shards claimed.")
LEASES_LOST = Counter("innbox_relay_leases_lost", "Cursor writes refused: another relay owns it.")
OUTAGES = Counter("innbox_relay_kafka_outages", "Times the brokers went away.")
IS_OWNER = Gauge("innbox_relay_is_owner", "1 while this relay owns a shard, 0 on standby.")
LAG = Gauge("innbox_relay_lag_seconds", "Age of the newest message when it was published.")
PARTITIONS = Gauge("innbox_outbox_partitions", "Daily partitions of the outbox.")
