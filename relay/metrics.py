"""What a relay counts."""

import time

from prometheus_client import Counter, Gauge

PUBLISHED = Counter("innbox_relay_messages", "Messages acknowledged by the brokers.")
BATCHES = Counter("innbox_relay_batches", "Readings published and recorded.")
TAKEOVERS = Counter("innbox_relay_claims", "Shards claimed.")
LEASES_LOST = Counter("innbox_relay_leases_lost", "Cursor writes refused: another relay owns it.")
OUTAGES = Counter("innbox_relay_kafka_outages", "Times the brokers went away.")
IS_OWNER = Gauge("innbox_relay_is_owner", "1 while this relay owns a shard, 0 on standby.")
LAG = Gauge(
    "innbox_relay_lag_seconds",
    "Age of the oldest message that this relay has read and not yet published; 0 without one.",
)
PARTITIONS = Gauge("innbox_outbox_partitions", "Daily partitions of the outbox.")


def in_hand(age_s: float | None) -> None:
    """Say how old the oldest message in hand is, or that there is none; the lag grows by itself."""
    since = None if age_s is None else time.monotonic() - max(0.0, age_s)
    LAG.set_function(lambda: 0.0 if since is None else time.monotonic() - since)
