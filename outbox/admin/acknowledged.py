"""Acknowledged findings: a person knows of them, and said why, so they are no alarm any more.

A finding is of a message in a topic, and of one kind; another message, or another kind, is another
finding. An acknowledgement changes nothing but the alarm: what is missing stays missing, and a mend
publishes it. It is a record, and nothing deletes it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

MISSING = "missing"

ACKNOWLEDGE = text("""
    INSERT INTO outbox.acknowledgement (kind, topic, message_id, acknowledged_by, reason)
    SELECT kind, topic, message_id, :acknowledged_by, :reason
    FROM unnest(CAST(:kinds AS text[]), CAST(:topics AS text[]), CAST(:message_ids AS uuid[]))
        AS found (kind, topic, message_id)
    ON CONFLICT (kind, topic, message_id) WHERE mended_by IS NULL DO NOTHING
""")


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit holds against a message."""

    kind: str
    topic: str
    message_id: UUID


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
