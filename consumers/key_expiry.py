"""Idempotency keys are kept for days, as long as a client may repeat a request, and deleted then."""

from sqlalchemy import Engine

from domain.idempotency import IdempotencyKeys

# IdempotencyKeys per transaction: to delete so many takes far less than a statement may take.
CHUNK_SIZE = 10_000


def delete_old_keys_once(engine: Engine, keys: IdempotencyKeys, older_than_s: float) -> int:
    """Delete the idempotency keys of requests older than this, in chunks; returns how many."""
    deleted = 0
    while True:
        with engine.begin() as connection:
            chunk = keys.forget(connection, older_than_s, CHUNK_SIZE)
        deleted += chunk
        if chunk < CHUNK_SIZE:
            return deleted
