"""What a relay must be told, in one frozen value; `relay.cli` makes it of the environment."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from innbox_process.config import NO_ROLE, DatabaseConfig, DatabaseSettings

Mode = Literal["at-least-once", "exactly-once"]

# Of exactly-once mode. No setting: a relay or a command with another name would not find the cursor that
# Kafka has, and publish a transaction again.
CURSOR_TOPIC = "outbox-cursor"

_LEAST = {
    "lease_s": 0.5,
    "poll_s_max": 0.01,
    "chunk": 1,
    "gather_ms": 0,
    "partitions_ahead_days": 1,
}


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """One database's outbox and one Kafka cluster, and how to get from the one to the other.

    Durations carry their unit in their name. `kafka` are properties of librdkafka, `bootstrap.servers`
    among them; those that the guarantees rest on are not for it to change (`relay.publishing.producer`).
    """

    database_url: str = field(repr=False)
    kafka: dict[str, Any] = field(repr=False)
    topics: tuple[str, ...] = ()  # those that are waited for at the start; without the prefix
    topic_prefix: str = ""  # before every topic and transactional id, where a cluster is shared
    mode: Mode = "at-least-once"
    lease_s: float = 10.0  # a standby takes over after this
    poll_s_max: float = 2.0  # the idle wait when no doorbell rings
    chunk: int = 2_000  # messages in a batch, at most
    gather_ms: float = 25.0  # a busy relay lets messages gather for so long at most
    retention_days: float = 7.0
    partitions_ahead_days: int = 7
    housekeeping_s: float = 300.0
    role: str = NO_ROLE  # of the database, taken on connecting
    database: DatabaseSettings = field(default_factory=DatabaseConfig)
    host: str = "127.0.0.1"  # of the health server
    health_port: int = 0
    shutdown_s: float = 10.0

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no relay could work with."""
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: {self.mode!r} is none of {', '.join(get_args(Mode))}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is less than {least}")

    @property
    def cursor_topic_name(self) -> str:
        """The full name of the topic of cursors."""
        return self.topic_prefix + CURSOR_TOPIC

    @property
    def needed_topics(self) -> list[str]:
        """The full names of the topics without which nothing can be published."""
        cursors = [CURSOR_TOPIC] if self.mode == "exactly-once" else []
        return [self.topic_prefix + topic for topic in (*self.topics, *cursors)]
