"""What can go wrong, one leaf per cause.

OutboxError
├── UnknownTopic    ┐
├── KeyMissing      │
├── ValueTooLarge   ├ refused by `append`: nothing unpublishable may enter
├── HeadersTooLarge ┘
├── InvalidTopicName  refused by `declare_topics`: no topic can have that name
├── LeaseLost         refused by the shard: another relay has it now
├── NoSuchShard     ┐
├── HandoverTaken   ├ refused to a change of the shards
├── NotNeighbours   ┘
├── KeyNotBlocked     there is nothing to decide about the key
├── ForeignCursor     refused to a relay: the cursor belongs to another Postgres cluster
├── SequenceBehind    refused to a relay: positions would be given out twice
├── StillRelayed             ┐ refused to a rebase
├── TransactionIdsRestarted  ┘
├── NoSuchReplay   ┐
├── ReplayTaken    │
├── MendTaken      ├ refused to a process that would go on with a replay
├── ReplayOver     │
└── ForeignReplay  ┘
"""

from collections.abc import Collection
from datetime import datetime


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


class InvalidTopicName(OutboxError):
    """No broker has, or could have, a topic of this name that takes messages."""

    code = "INVALID_TOPIC_NAME"

    def __init__(self, topic: str, problem: str) -> None:
        super().__init__(f"topic {topic!r} cannot be declared: {problem}")
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
    """The shard's epoch moved on: another relay took it over, and this one's cursor was refused."""

    code = "LEASE_LOST"

    def __init__(self, shard_id: int, epoch: int) -> None:
        super().__init__(
            f"shard {shard_id}: another relay has taken it over (this one had epoch {epoch})"
        )
        self.shard_id = shard_id
        self.epoch = epoch


class NoSuchShard(OutboxError):
    """There is no shard of this id (any more)."""

    code = "NO_SUCH_SHARD"

    def __init__(self, shard_id: int) -> None:
        super().__init__(f"there is no shard {shard_id}")
        self.shard_id = shard_id


class HandoverTaken(OutboxError):
    """Another process has requested the shard's handover, to change it."""

    code = "SHARD_RESERVED"

    def __init__(self, shard_id: int, reserved_for: str) -> None:
        super().__init__(
            f"shard {shard_id}: its handover to {reserved_for} is pending; try again when that has ended"
        )
        self.shard_id = shard_id
        self.reserved_for = reserved_for


class NotNeighbours(OutboxError):
    """Only shards whose ranges touch, and that stand at the same snapshot, can become one."""

    code = "NOT_NEIGHBOURS"

    def __init__(self, left_id: int, right_id: int) -> None:
        super().__init__(
            f"shards {left_id} and {right_id} are not neighbours that stand at the same snapshot"
        )
        self.left_id = left_id
        self.right_id = right_id


class KeyNotBlocked(OutboxError):
    """No message of this key is in the way, or it is being tried again already."""

    code = "KEY_NOT_BLOCKED"

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key!r} is not blocked")
        self.key = key


class ForeignCursor(OutboxError):
    """The cursor belongs to another Postgres cluster: to publish by it would lose messages."""

    code = "CURSOR_FROM_ELSEWHERE"

    def __init__(self, shard_id: int, reason: str) -> None:
        super().__init__(
            f"shard {shard_id}: the cursor belongs to another Postgres cluster ({reason}); publishing is "
            "stopped until `outbox rebase` is run"
        )
        self.shard_id = shard_id
        self.reason = reason


class SequenceBehind(OutboxError):
    """Messages would get positions that are below a cursor's floor, where no relay looks for them."""

    code = "SEQUENCE_BEHIND"

    def __init__(self, next_position: int, highest: int) -> None:
        super().__init__(
            f"sequence outbox.message_position_seq is behind its table (next {next_position}, highest "
            f"{highest}), as after a restore; publishing is stopped until `outbox rebase` is run"
        )
        self.next_position = next_position
        self.highest = highest


class StillRelayed(OutboxError):
    """A cursor is rebased only while no relay may write it."""

    code = "STILL_RELAYED"

    def __init__(self, shard_id: int, owner: str, leased_until: datetime) -> None:
        super().__init__(
            f"shard {shard_id}: relay {owner} has its lease until {leased_until:%H:%M:%S %Z}; stop that "
            "relay, or wait until then if it ran in the old cluster"
        )
        self.shard_id = shard_id
        self.owner = owner
        self.leased_until = leased_until


class TransactionIdsRestarted(OutboxError):
    """The cursors cannot be kept: they might hide messages that were written in this cluster."""

    code = "TRANSACTION_IDS_RESTARTED"

    def __init__(self) -> None:
        super().__init__(
            "the cursors contain transaction ids that this cluster assigns again; they can be kept only "
            "where ids continue, as after pg_upgrade: run it without --same-transaction-ids"
        )


class NoSuchReplay(OutboxError):
    """There is no replay of this id."""

    code = "NO_SUCH_REPLAY"

    def __init__(self, replay_id: int) -> None:
        super().__init__(f"there is no replay {replay_id}")
        self.replay_id = replay_id


class ReplayTaken(OutboxError):
    """A replay is run by one process at a time."""

    code = "REPLAY_TAKEN"

    def __init__(self, replay_id: int) -> None:
        super().__init__(f"replay {replay_id} is being run by another process")
        self.replay_id = replay_id


class MendTaken(OutboxError):
    """An outbox is mended by one process at a time: two would publish the same messages twice."""

    code = "MEND_TAKEN"

    def __init__(self) -> None:
        super().__init__(
            "another process mends this outbox; wait until it ends, then audit again "
            "(`outbox replays` shows its progress)"
        )


class ReplayOver(OutboxError):
    """The replay is done, or was cancelled, perhaps while it ran."""

    code = "REPLAY_OVER"

    def __init__(self, replay_id: int, state: str) -> None:
        super().__init__(f"replay {replay_id} is {state}")
        self.replay_id = replay_id
        self.state = state


class ForeignReplay(OutboxError):
    """Its messages were chosen by the transaction ids of another cluster."""

    code = "REPLAY_FROM_ELSEWHERE"

    def __init__(self, replay_id: int) -> None:
        super().__init__(
            f"replay {replay_id} was created in another Postgres cluster, whose transaction ids say "
            "nothing here; cancel it and create a new one"
        )
        self.replay_id = replay_id
