"""What a relay counts."""

import time

from prometheus_client import Counter, Gauge

PUBLISHED = Counter("innbox_relay_messages", "Messages acknowledged by the brokers.")
BATCHES = Counter("innbox_relay_batches", "Batches published and recorded.")
TAKEOVERS = Counter("innbox_relay_claims", "Shards claimed.")
LEASES_LOST = Counter("innbox_relay_leases_lost", "Cursor writes refused: another relay owns it.")
OUTAGES = Counter("innbox_relay_kafka_outages", "Times the brokers went away.")
PRODUCERS_REPLACED = Counter(
    "innbox_relay_producers_replaced",
    "Producers replaced because a commit lasted long enough to have been retried (exactly-once).",
)
BROKER_LOSSES = Counter(
    "innbox_relay_broker_losses", "Times the brokers had lost records that they had acknowledged."
)
SHARDS = Gauge("innbox_relay_shards", "Shards that this relay owns; 0 on standby.")
BLOCKED = Gauge(
    "innbox_relay_blocked_keys", "Keys that wait for an operator, in this relay's shards."
)
LAG = Gauge(
    "innbox_relay_lag_seconds",
    "Age of the oldest message that this relay has read and not yet published; 0 without one.",
)
BACKLOG = Gauge(
    "innbox_outbox_backlog",
    "Messages committed and not yet published, among the newest 100,000, at the last housekeeping.",
)
PARTITIONS = Gauge("innbox_outbox_partitions", "Daily partitions of the outbox.")

_oldest: dict[int, float] = {}
_blocked: dict[int, int] = {}


def oldest_unpublished(shard_id: int, age_s: float | None) -> None:
    """Say how old the oldest message is that waits for the brokers, or None; the lag grows by itself."""
    if age_s is None:
        _oldest.pop(shard_id, None)
    else:
        _oldest[shard_id] = time.monotonic() - max(0.0, age_s)


def blocked(shard_id: int, keys: int) -> None:
    """Say how many keys of a shard are blocked."""
    _blocked[shard_id] = keys
    BLOCKED.set(sum(_blocked.values()))


def forget_shard(shard_id: int) -> None:
    """Forget a shard: another relay counts it."""
    oldest_unpublished(shard_id, None)
    blocked(shard_id, 0)


def _lag_s() -> float:
    oldest = min(_oldest.values(), default=None)
    return 0.0 if oldest is None else time.monotonic() - oldest


LAG.set_function(_lag_s)
