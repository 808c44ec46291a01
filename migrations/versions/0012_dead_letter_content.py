"""A dead letter is identified by its location and its content: a recreated topic reuses the locations.

Consumers of the previous version go on: the column is generated, and they name no constraint. The table
is rewritten under an exclusive lock; it is small, since an operator decides each row.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

PLACE = 'group_id, topic, partition, "offset"'
OF_PLACE = "uq_dead_letter_group_id_topic_partition_offset"
OF_CONTENT = "uq_dead_letter_group_id_topic_partition_offset_digest"
UPGRADE = [
    rf"""
    ALTER TABLE consumers.dead_letter
        ADD COLUMN digest BYTEA GENERATED ALWAYS AS (sha256(
            coalesce(sha256(key), '\x00'::bytea) || coalesce(sha256(value), '\x00'::bytea)
            || decode(replace(headers::text, '\'::text, '\\'::text), 'escape'::text)
        )) STORED NOT NULL,
        DROP CONSTRAINT {OF_PLACE},
        ADD CONSTRAINT {OF_CONTENT} UNIQUE ({PLACE}, digest)
    """,
    # ON CONFLICT ON CONSTRAINT needs the right to read the constraint's columns; id and state are for
    # the log.
    """
    GRANT SELECT (id, group_id, state, digest) ON consumers.dead_letter
        TO innbox_rooms, innbox_results
    """,
]
# It fails while a location has two dead letters, because one of them would be lost.
DOWNGRADE = [
    f"""
    ALTER TABLE consumers.dead_letter
        DROP COLUMN digest,
        ADD CONSTRAINT {OF_PLACE} UNIQUE ({PLACE})
    """,
    """
    REVOKE SELECT (id, group_id, state) ON consumers.dead_letter FROM innbox_rooms, innbox_results
    """,
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
