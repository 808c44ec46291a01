"""For operators: partitions, the backlog, shards made anew, refused messages, replays, and restores.

Every function takes a connection and works in the caller's transaction, unless its docstring says
otherwise. `innbox outbox …` and the upkeep of the relay are made of these.
"""

from outbox.admin.acknowledged import MISSING, Finding, acknowledge
from outbox.admin.backlog import backlogs, count_backlog
from outbox.admin.decisions import count_waiting, retry_all_keys, retry_key
from outbox.admin.mending import LostMessage, begin_mend
from outbox.admin.partitions import (
    PartitionChanges,
    ensure_partitions,
    move_from_default_partition,
    partitions,
    retire_partitions,
)
from outbox.admin.rebase import RebasePlan, plan_rebase, rebase
from outbox.admin.replay import Replay, ReplayState
from outbox.admin.replays import (
    check_target,
    create_replay,
    database_now,
    lock_mends,
    read_replay,
    replays,
    save_replay,
    stop_replay,
    take_replay,
)
from outbox.admin.resharding import cancel_handover, merge, request_handover, split
from outbox.admin.selection import Batch, Extent, Selection, Survey, survey
from outbox.admin.sequences import Sequence, advance_sequence, sequences_behind
from outbox.admin.skipped import SkippedMessage, skip_message, skipped_messages
from outbox.errors import (
    ForeignReplay,
    HandoverTaken,
    KeyNotBlocked,
    MendTaken,
    NoSuchReplay,
    NotNeighbours,
    ReplayOver,
    ReplayTaken,
    StillRelayed,
    TransactionIdsRestarted,
)

__all__ = [
    "MISSING",
    "Batch",
    "Extent",
    "Finding",
    "ForeignReplay",
    "HandoverTaken",
    "KeyNotBlocked",
    "LostMessage",
    "MendTaken",
    "NoSuchReplay",
    "NotNeighbours",
    "PartitionChanges",
    "RebasePlan",
    "Replay",
    "ReplayOver",
    "ReplayState",
    "ReplayTaken",
    "Selection",
    "Sequence",
    "SkippedMessage",
    "StillRelayed",
    "Survey",
    "TransactionIdsRestarted",
    "acknowledge",
    "advance_sequence",
    "backlogs",
    "begin_mend",
    "cancel_handover",
    "check_target",
    "count_backlog",
    "count_waiting",
    "create_replay",
    "database_now",
    "ensure_partitions",
    "lock_mends",
    "merge",
    "move_from_default_partition",
    "partitions",
    "plan_rebase",
    "read_replay",
    "rebase",
    "replays",
    "request_handover",
    "retire_partitions",
    "retry_all_keys",
    "retry_key",
    "save_replay",
    "sequences_behind",
    "skip_message",
    "skipped_messages",
    "split",
    "stop_replay",
    "survey",
    "take_replay",
]
