"""What a consumer counts, by group."""

from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter("innbox_consumer_messages", "Messages applied and committed.", ["group"])
BATCHES = Histogram(
    "innbox_consumer_batch_seconds", "From a batch's arrival to its commit in Postgres.", ["group"]
)
DEAD_LETTERS = Counter("innbox_consumer_dead_letters", "Messages kept as dead letters.", ["group"])
BISECTED = Counter(
    "innbox_consumer_bisections", "Batches split in two to find the message that fails.", ["group"]
)
RETRIES = Counter(
    "innbox_consumer_retries", "Batches retried after an outage or a conflict.", ["group"]
)
REDRIVEN = Counter("innbox_sagas_redriven", "Pending requests re-sent.")
STALLED = Gauge(
    "innbox_consumer_stalled_partitions",
    "Partitions that are assigned and behind, but not fetched.",
    ["group"],
)
TRUNCATIONS = Counter(
    "innbox_consumer_truncations", "Logs that lost records after they were read.", ["group"]
)
