"""What can go wrong, one leaf per cause.

OutboxError
├── UnknownTopic    ┐
├── KeyMissing      │
├── ValueTooLarge   ├ refused by `append`: nothing unpublishable may enter
├── HeadersTooLarge ┘
└── LeaseLost         refused by the shard: somebody else relays it now
"""

from collections.abc import Collection


class OutboxError(Exception):
    """Anything this package raises on purpose."""

    code = "OUTBOX"


class UnknownTopic(OutboxError):
    """The topic was never declared, so no broker would take the message."""

    code = "UNKNOWN_TOPIC"

    def __init__(self, topic: str, known: Collection[str]) -> None:
        super().__init__(
            f"topic {topic!r} is not declared (declared: {', '.join(sorted(known)) or 'none'}); "
            "declare it with outbox.declare_topics and create it on the broker first"
        )
        self.topic = topic


class KeyMissing(OutboxError):
    """Without a key a message has no order and no shard."""

    code = "KEY_MISSING"

    def __init__(self, topic: str) -> None:
        super().__init__(f"a message for {topic!r} has no key")
        self.topic = topic


class ValueTooLarge(OutboxError):
    """The broker would refuse the message for good, and it would block its key."""

    code = "VALUE_TOO_LARGE"

    def __init__(self, topic: str, value_bytes: int, value_bytes_max: int) -> None:
        super().__init__(
            f"a message for {topic!r} has {value_bytes} bytes; the topic takes {value_bytes_max}"
        )
        self.topic = topic
        self.value_bytes = value_bytes
        self.value_bytes_max = value_bytes_max


class HeadersTooLarge(OutboxError):
    """Key and headers alone would take the message near the broker's limit."""

    code = "HEADERS_TOO_LARGE"

    def __init__(self, topic: str, headers_bytes: int, headers_bytes_max: int) -> None:
        super().__init__(
            f"a message for {topic!r} has {headers_bytes} bytes of key and headers; "
            f"at most {headers_bytes_max} are taken"
        )
        self.topic = topic
        self.headers_bytes = headers_bytes
        self.headers_bytes_max = headers_bytes_max


class LeaseLost(OutboxError):
    """The shard's epoch moved on: another relay took it over, and our cursor write was refused."""

    code = "LEASE_LOST"

    def __init__(self, shard_id: int, epoch: int) -> None:
        super().__init__(f"shard {shard_id} is no longer ours (we held epoch {epoch})")
        self.shard_id = shard_id
        self.epoch = epoch
