"""Version 5: no two shards have a hash in common, whichever program writes them.

The ends of a range never change, so saving a cursor touches no index and stays a rewrite on the page.
"""

UPGRADE = (
    """
    ALTER TABLE outbox.shard ADD CONSTRAINT ex_shard_ranges_apart
        EXCLUDE USING gist (int8range(hash_from, hash_to) WITH &&)
    """,
)

DOWNGRADE = ("ALTER TABLE outbox.shard DROP CONSTRAINT ex_shard_ranges_apart",)
