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

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from inspect import get_annotations
from typing import ClassVar, dataclass_transform


@dataclass_transform(eq_default=False)
class OutboxError(Exception):
    """Anything this package raises on purpose; it has a `code`, and the parts of its text as fields."""

    code: ClassVar = "OUTBOX"
    text: ClassVar = ""

    def __init_subclass__(cls, *, code: str = "") -> None:
        cls.code = code or re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).upper()
        if get_annotations(cls):  # else it takes a text, as any exception
            dataclass(eq=False, repr=False)(cls)  # with `eq` it could not be hashed, nor shown

    def __str__(self) -> str:
        return self.text.format_map(vars(self)) or super().__str__()


class UnknownTopic(OutboxError):
    """The topic was never declared, so no broker would take the message."""

    text = (
        "topic {topic!r} is not declared (declared: {known}); "
        "declare it with outbox.declare_topics and create it on the broker first"
    )
    topic: str
    known: Collection[str]

    def __str__(self) -> str:
        known = ", ".join(sorted(self.known)) or "none"
        return self.text.format(topic=self.topic, known=known)


class InvalidTopicName(OutboxError):
    """No broker has, or could have, a topic of this name that takes messages."""

    text = "topic {topic!r} cannot be declared: {problem}"
    topic: str
    problem: str


class KeyMissing(OutboxError):
    """Without a key a message has no order and no shard."""

    text = "a message for {topic!r} has no key"
    topic: str


class ValueTooLarge(OutboxError):
    """The broker would refuse the message for good, and it would block its key."""

    text = "a message for {topic!r} has {value_bytes} bytes; the topic takes {value_bytes_max}"
    topic: str
    value_bytes: int
    value_bytes_max: int


class HeadersTooLarge(OutboxError):
    """Key and headers alone would take the message near the broker's limit."""

    text = (
        "a message for {topic!r} has {headers_bytes} bytes of key and headers; "
        "at most {headers_bytes_max} are taken"
    )
    topic: str
    headers_bytes: int
    headers_bytes_max: int


class LeaseLost(OutboxError):
    """The shard's epoch moved on: another relay took it over, and this one's cursor was refused."""

    text = "shard {shard_id}: another relay has taken it over (this one had epoch {epoch})"
    shard_id: int
    epoch: int


class NoSuchShard(OutboxError):
    """There is no shard of this id (any more)."""

    text = "there is no shard {shard_id}"
    shard_id: int


class HandoverTaken(OutboxError, code="SHARD_RESERVED"):
    """Another process has requested the shard's handover, to change it."""

    text = (
        "shard {shard_id}: its handover to {reserved_for} is pending; try again when that has ended"
    )
    shard_id: int
    reserved_for: str


class NotNeighbours(OutboxError):
    """Only shards whose ranges touch, and that stand at the same snapshot, can become one."""

    text = "shards {left_id} and {right_id} are not neighbours that stand at the same snapshot"
    left_id: int
    right_id: int


class KeyNotBlocked(OutboxError):
    """No message of this key is in the way, or it is being tried again already."""

    text = "key {key!r} is not blocked"
    key: str


class ForeignCursor(OutboxError, code="CURSOR_FROM_ELSEWHERE"):
    """The cursor belongs to another Postgres cluster: to publish by it would lose messages."""

    text = (
        "shard {shard_id}: the cursor belongs to another Postgres cluster ({reason}); publishing is "
        "stopped until `outbox rebase` is run"
    )
    shard_id: int
    reason: str


class SequenceBehind(OutboxError):
    """Messages would get positions that are below a cursor's floor, where no relay looks for them."""

    text = (
        "sequence outbox.message_position_seq is behind its table (next {next_position}, highest "
        "{highest}), as after a restore; publishing is stopped until `outbox rebase` is run"
    )
    next_position: int
    highest: int


class StillRelayed(OutboxError):
    """A cursor is rebased only while no relay may write it."""

    text = (
        "shard {shard_id}: relay {owner} has its lease until {leased_until:%H:%M:%S %Z}; stop that "
        "relay, or wait until then if it ran in the old cluster"
    )
    shard_id: int
    owner: str
    leased_until: datetime


class TransactionIdsRestarted(OutboxError):
    """The cursors cannot be kept: they might hide messages that were written in this cluster."""

    text = (
        "the cursors contain transaction ids that this cluster assigns again; they can be kept only "
        "where ids continue, as after pg_upgrade: run it without --same-transaction-ids"
    )


class NoSuchReplay(OutboxError):
    """There is no replay of this id."""

    text = "there is no replay {replay_id}"
    replay_id: int


class ReplayTaken(OutboxError):
    """A replay is run by one process at a time."""

    text = "replay {replay_id} is being run by another process"
    replay_id: int


class MendTaken(OutboxError):
    """An outbox is mended by one process at a time: two would publish the same messages twice."""

    text = (
        "another process mends this outbox; wait until it ends, then audit again "
        "(`outbox replays` shows its progress)"
    )


class ReplayOver(OutboxError):
    """The replay is done, or was cancelled, perhaps while it ran."""

    text = "replay {replay_id} is {state}"
    replay_id: int
    state: str


class ForeignReplay(OutboxError, code="REPLAY_FROM_ELSEWHERE"):
    """Its messages were chosen by the transaction ids of another cluster."""

    text = (
        "replay {replay_id} was created in another Postgres cluster, whose transaction ids say "
        "nothing here; cancel it and create a new one"
    )
    replay_id: int
