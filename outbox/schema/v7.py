"""Version 7: timed jobs are led by a leased row, and the row records how their runs ended.

Before, an advisory lock of a session elected; behind a pooler such a lock stays with a connection that
no process uses any more.
"""

UPGRADE = (
    """
    CREATE TABLE outbox.scheduled_job (
        name TEXT NOT NULL,
        owner TEXT NOT NULL,
        leased_until TIMESTAMP WITH TIME ZONE NOT NULL,
        succeeded_at TIMESTAMP WITH TIME ZONE,
        succeeded_by TEXT,
        failed_at TIMESTAMP WITH TIME ZONE,
        failed_by TEXT,
        failure TEXT,
        CONSTRAINT pk_scheduled_job PRIMARY KEY (name),
        CONSTRAINT ck_scheduled_job_success_whole
            CHECK ((succeeded_at IS NULL) = (succeeded_by IS NULL)),
        CONSTRAINT ck_scheduled_job_failure_whole
            CHECK (num_nulls(failed_at, failed_by, failure) IN (0, 3))
    ) WITH (fillfactor = 20)
    """,
)

DOWNGRADE = ("DROP TABLE outbox.scheduled_job",)
