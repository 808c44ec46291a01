"""For operators: partitions, the backlog, shards made anew, refused messages, replays, and restores.

Every function takes a connection and works in the caller's transaction, unless its docstring says
otherwise. `innbox outbox …` and the upkeep of the relay are made of these.
"""

from outbox.admin.backlog import backlogs, count_backlog
from outbox.admin.decisions import (
    SkippedMessage,
    count_waiting,
    retry_all_keys,
    retry_key,
    skip_message,
    skipped_messages,
)
from outbox.admin.mending import MISSING, Finding, LostMessage, acknowledge, begin_mend
from outbox.admin.partitions import (
    PartitionChanges,
    ensure_partitions,
    move_from_default_partition,
    partitions,
    retire_partitions,
)
from outbox.admin.rebase import RebasePlan, plan_rebase, rebase
from outbox.admin.replays import (
    Replay,
    ReplayState,
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

# By topic, in the order of "Every name" in docs/library.md.
__all__ = ["PartitionChanges", "ensure_partitions", "move_from_default_partition", "partitions"]
__all__ += ["retire_partitions"]
__all__ += ["backlogs", "count_backlog"]
__all__ += [
    "HandoverTaken",
    "NotNeighbours",
    "cancel_handover",
    "merge",
    "request_handover",
    "split",
]
__all__ += ["KeyNotBlocked", "SkippedMessage", "count_waiting", "retry_all_keys", "retry_key"]
__all__ += ["skip_message", "skipped_messages"]
__all__ += ["Batch", "Extent", "Selection", "Survey", "survey"]
__all__ += ["ForeignReplay", "NoSuchReplay", "Replay", "ReplayOver", "ReplayState", "ReplayTaken"]
__all__ += ["check_target", "create_replay", "database_now", "read_replay", "replays"]
__all__ += ["save_replay", "stop_replay", "take_replay"]
__all__ += ["LostMessage", "MendTaken", "begin_mend", "lock_mends"]
__all__ += ["MISSING", "Finding", "acknowledge"]
__all__ += ["RebasePlan", "StillRelayed", "TransactionIdsRestarted", "plan_rebase", "rebase"]
__all__ += ["Sequence", "advance_sequence", "sequences_behind"]
