"""What a consumer counts, by group."""

from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter("innbox_consumer_messages", "Messages applied and committed.", ["group"])
BATCHES = Histogram(
    "innbox_consumer_batch_seconds", "From a batch's arrival to its commit in Postgres.", ["group"]
)
DEAD_LETTERS = Counter("innbox_consumer_dead_letters", "Messages set aside.", ["group"])
BISECTED = Counter(
    "innbox_consumer_bisections", "Batches split in two to find the message that fails.", ["group"]
)
RETRIES = Counter(
    "innbox_consumer_retries", "Batches tried again after an outage or a conflict.", ["group"]
)
REDRIVEN = Counter("innbox_sagas_redriven", "Pending requests that were sent again.")
STALLED = Gauge(
    "innbox_consumer_stalled_partitions",
    "Partitions that are assigned and behind, and not fetched.",
    ["group"],
)
TRUNCATIONS = Counter(
    "innbox_consumer_truncations", "Logs whose end the brokers lost after it was read.", ["group"]
)
