"""What an audit finds: a person acknowledges it, and a mend publishes what is missing.

A finding is of a message in a topic, and of one kind; another message, or another kind, is another
finding. An acknowledgement says that a person knows of it, and why, so it is no alarm any more. It
changes nothing else: what is missing stays missing. It is a record, and nothing deletes it.

A mend publishes again what the brokers have lost, exactly that, each message once. A broker that loses
its disk, or the tail of a log, loses messages that the cursors have passed: no relay will publish them
again. An audit finds them; a caller of `begin_mend` must have called `lock_mends` before that audit, on
the same session. So no second mend runs between the look and the publishing, and what a mend was told is
missing is still missing when it begins.

A mend is a replay by positions: its progress is saved batch by batch, so a crash repeats one batch at
most. Beginning anew instead is as safe, since an audit finds only what is missing still; the mend that
did not finish is cancelled by the same statement, so that it is not resumed.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from outbox.admin.replays import INSERT, Replay, record_replay
from outbox.admin.selection import CURSORS, Extent, Selection, Survey
from outbox.reader.cluster_identity import check_cluster_identity

MISSING = "missing"

ACKNOWLEDGE = text("""
    INSERT INTO outbox.acknowledgement (kind, topic, message_id, acknowledged_by, reason)
    SELECT kind, topic, message_id, :acknowledged_by, :reason
    FROM unnest(CAST(:kinds AS text[]), CAST(:topics AS text[]), CAST(:message_ids AS uuid[]))
        AS found (kind, topic, message_id)
    ON CONFLICT (kind, topic, message_id) WHERE mended_by IS NULL DO NOTHING
""")


# With the mend, in one statement: nothing of an earlier one goes on, and should a message be lost once
# more, what was acknowledged of it is history.
BEGIN = text(f"""
    WITH made AS ({INSERT}), replaced AS (
        UPDATE outbox.replay SET state = 'CANCELLED', updated_at = clock_timestamp(),
               reason = 'replaced by mend ' || made.id
        FROM made
        WHERE positions <> '{{}}' AND state IN ('RUNNING', 'INTERRUPTED', 'REFUSED')
    ), mended AS (
        UPDATE outbox.acknowledgement SET mended_by = made.id
        FROM made
        WHERE kind = '{MISSING}' AND mended_by IS NULL
          AND message_id = ANY (CAST(:message_ids AS uuid[]))
    )
    SELECT id FROM made
""")


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit holds against a message."""

    kind: str
    topic: str
    message_id: UUID


@dataclass(frozen=True, slots=True)
class LostMessage:
    """A message that is in the outbox, relayed, and not in its topic."""

    position: int
    message_id: UUID
    topic: str
    created_at: datetime


def acknowledge(
    connection: Connection, findings: Collection[Finding], *, acknowledged_by: str, reason: str
) -> int:
    """Record that a person knows of these findings, in the caller's transaction; returns how many.

    One that is acknowledged already keeps the first name and reason, and is not counted.
    """
    values = {
        "kinds": [finding.kind for finding in findings],
        "topics": [finding.topic for finding in findings],
        "message_ids": [finding.message_id for finding in findings],
        "acknowledged_by": acknowledged_by,
        "reason": reason,
    }
    return connection.execute(ACKNOWLEDGE, values).rowcount


def begin_mend(
    connection: Connection, lost: Sequence[LostMessage], *, per_second: int, started_by: str
) -> Replay:
    """Record a mend of these messages, in the order of their positions, and take it.

    The session must be the one that mends (`lock_mends`). Raises `ForeignCursor`.
    """
    check_cluster_identity(connection)
    cursors: str = connection.execute(CURSORS).scalar_one()
    positions = tuple(each.position for each in lost)
    selection = Selection(message_ids=tuple(each.message_id for each in lost), positions=positions)
    times = [each.created_at for each in lost]
    # The times went through a float on their way here.
    first_at, last_at = min(times) - timedelta(seconds=1), max(times) + timedelta(seconds=1)
    extent = Extent(selection, positions[0], positions[-1], first_at, last_at, cursors)
    survey = Survey(Counter(each.topic for each in lost), 0, extent=extent)
    settings = {"to_topic": None, "per_second": per_second, "started_by": started_by}
    return record_replay(connection, BEGIN, survey, settings)
