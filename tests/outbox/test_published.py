"""What is published: one rule, looked up for a message or joined for a whole log."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from outbox import reader
from outbox.reader import IS_PUBLISHED_BY_CURSORS, MESSAGES_WITH_CURSORS, Shard
from outbox.reader.cursor import IS_PUBLISHED
from tests.support.relays import a_message, append, claimed

LOOKED_UP = text(f"SELECT key, {IS_PUBLISHED} FROM outbox.message ORDER BY position")
JOINED = text(
    f"SELECT message.key, {IS_PUBLISHED_BY_CURSORS} FROM {MESSAGES_WITH_CURSORS} "
    "ORDER BY message.position"
)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def test_what_the_snapshot_shows_is_published_and_of_a_batch_what_lies_up_to_its_position(
    engine: Engine, connection: Connection
) -> None:
    append(engine, a_message("seen"))
    shard = moved(engine, claimed(engine), limit=10)
    append(engine, a_message("published"), a_message("to come"), a_message("to come"))
    assert published(connection) == ["seen"]

    shard = moved(engine, shard, limit=1)
    assert shard.cursor.batch_snapshot
    append(engine, a_message("after the batch"))
    assert published(connection) == ["seen", "published"]


def test_of_a_blocked_key_its_own_cursor_tells_whatever_its_shard_has_passed(
    engine: Engine, connection: Connection
) -> None:
    append(engine, a_message("held"), a_message("free"), a_message("held"))
    shard = claimed(engine)
    with engine.begin() as blocking:
        reading = reader.read(blocking, shard.cursor, shard.hashes, limit=1)
        reader.block_key(blocking, shard, reading.cursor, reading.rows[0][0], "too large")
    moved(engine, shard, limit=10)
    assert published(connection) == ["free"]


def test_without_a_cursor_nothing_is_published(engine: Engine, connection: Connection) -> None:
    """As in the midst of a restore."""
    append(engine, a_message())
    moved(engine, claimed(engine), limit=10)
    with engine.begin() as restoring:
        restoring.execute(text("DELETE FROM outbox.shard"))
    assert published(connection) == []


def published(connection: Connection) -> list[str]:
    """The keys of the published messages, in both ways the same."""
    looked_up = connection.execute(LOOKED_UP).all()
    assert connection.execute(JOINED).all() == looked_up
    assert {is_published for _, is_published in looked_up} <= {True, False}, "never null"
    return [key for key, is_published in looked_up if is_published]


def moved(engine: Engine, shard: Shard, *, limit: int) -> Shard:
    """Publish the next messages, as far as the cursor can tell."""
    with engine.begin() as connection:
        cursor = reader.read(connection, shard.cursor, shard.hashes, limit=limit).cursor
        return reader.save(connection, shard, cursor, lease_s=60)
