"""A kit for the tests of code that appends: what was appended, what would be published, and crashes.

It needs a real Postgres with the outbox's tables, as everything here does, and neither a relay nor a
broker nor a test framework. All of it goes by one notion: a message is new until it is drained.

    with crash_after("commit", engine):
        place_order(engine, 7)
    assert [message.key for message in drain(engine)] == ["7"]
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import Connection, Engine, RootTransaction, event, text

from outbox.append import APPEND, Message
from outbox.doorbell import synchronous
from outbox.reader.cursor import covers
from outbox.reader.difference import read
from outbox.reader.driver import decode_headers, prepare_session
from outbox.reader.shards import claim, release_shard, save, shards

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

__all__ = ["Crashed", "assert_appended", "assert_nothing_appended", "crash_after", "drain"]

_SHOWN_MAX = 20
_VALUE_BYTES_SHOWN_MAX = 200
_LEASE_S = 10.0
_LIMIT = 1_000

# The transaction's own messages are among them: a snapshot never shows what is still open.
NEW = text(f"""
    SELECT message_id, topic, key, value, headers::text
    FROM outbox.message AS message
    JOIN outbox.shard AS shard ON key_hash >= hash_from AND key_hash < hash_to
    WHERE NOT {covers("shard")}
    ORDER BY message.position
""")
IDS = text("SELECT position, message_id FROM outbox.message WHERE position = ANY(:positions)")


class Crashed(BaseException):
    """The process is gone, as far as the code under test can tell; raised by `crash_after` alone.

    No `Exception`, so that no ordinary handler survives its own death.
    """


def assert_appended(
    connection: "Connection | Session",
    *,
    topic: str | None = None,
    key: str | None = None,
    type: str | None = None,  # noqa: A002 - as the message has it
    value: object = None,
) -> Message:
    """Return the first new message that has all that is given; else fail and show what there is.

    Looks at what this connection sees, its own open transaction included. A `value` of bytes is
    compared as it is, any other one as JSON.
    """
    given = {"topic": topic, "key": key, "type": type, "value": value}
    wanted = {name: part for name, part in given.items() if part is not None}
    found = _new(connection)
    for message in found:
        if all(_has(message, name, part) for name, part in wanted.items()):
            return message
    raise AssertionError(f"no new message has {_joined(wanted)}; {_shown(found)}")


def assert_nothing_appended(connection: "Connection | Session") -> None:
    """Fail if there is a new message, and show which."""
    if found := _new(connection):
        raise AssertionError(f"nothing was to be appended; {_shown(found)}")


def drain(connection: "Connection | Session | Engine") -> list[Message]:
    """Return what is committed and not yet drained, in publishing order; headers as they would be sent.

    Reads as a relay does, from a connection of its own, so nothing that is open is seen; and moves the
    cursors as a relay does. Raises `RuntimeError` while one has a shard.
    """
    bind = connection if isinstance(connection, Connection | Engine) else connection.get_bind()
    own = synchronous(bind.engine).connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        prepare_session(own)
        return [message for shard in shards(own) for message in _drained(own, shard.id)]
    finally:
        own.invalidate()  # the session's settings are for relays, and must not go back to the pool
        own.close()


@contextmanager
def crash_after(
    point: Literal["append", "commit"], engine: "Engine | AsyncEngine"
) -> Iterator[None]:
    """Crash the block right after its next append, or right after the commit of one.

    The connection is cut, so that the database sees what a killed process leaves behind, and `Crashed`
    is raised; the block ends there, and fails if it never comes to the point. What runs while it
    unwinds (`finally`, say) would not run in a process that is killed.
    """
    engine = engine if isinstance(engine, Engine) else engine.sync_engine
    doomed: list[RootTransaction | None] = []
    crashed: list[str] = []

    def crash(connection: Connection) -> None:
        crashed.append(point)
        connection.invalidate()
        raise Crashed(f"right after the {point}")

    def on_execute(connection: Connection, statement: object, *_: object) -> None:
        if statement is APPEND:
            doomed.append(connection.get_transaction())
            if point == "append":
                crash(connection)

    def on_commit(connection: Connection) -> None:
        if point == "commit" and connection.get_transaction() in doomed:
            # The event comes before the commit, which is therefore made here.
            connection.dialect.do_commit(connection.connection)
            crash(connection)

    event.listen(engine, "after_execute", on_execute)
    event.listen(engine, "commit", on_commit)
    try:
        with suppress(Crashed):
            yield
    finally:
        event.remove(engine, "after_execute", on_execute)
        event.remove(engine, "commit", on_commit)
    if not crashed:
        raise AssertionError(f"nothing crashed: the block never came to the {point} of a message")


def _new(connection: "Connection | Session") -> list[Message]:
    rows = connection.execute(NEW)
    return [_message(*row) for row in rows]


def _drained(connection: Connection, shard_id: int) -> list[Message]:
    shard = claim(connection, f"drain-{uuid4()}", lease_s=_LEASE_S, shard_id=shard_id)
    if shard is None:
        raise RuntimeError(f"a relay has shard {shard_id}, and would take what is to be drained")
    drained: list[Message] = []
    while True:
        batch = read(connection, shard.cursor, shard.hashes, limit=_LIMIT)
        shard = save(connection, shard, batch.cursor, lease_s=_LEASE_S)
        if not batch.rows:
            break
        positions = {"positions": [row[0] for row in batch.rows]}
        ids = {row.position: row.message_id for row in connection.execute(IDS, positions)}
        drained += [_message(ids[position], *columns) for position, *columns, _ in batch.rows]
    release_shard(connection, shard)
    return drained


def _message(message_id: UUID, topic: str, key: str, value: bytes, encoded: str) -> Message:
    headers = decode_headers(encoded)
    kind, source = headers.get("ce_type", ""), headers.get("ce_source", "")
    return Message(topic, key, kind, value, source, message_id, headers)


def _has(message: Message, name: str, given: object) -> bool:
    if name != "value" or isinstance(given, bytes):
        return bool(getattr(message, name) == given)
    try:
        return bool(msgspec.json.decode(message.value) == given)
    except msgspec.DecodeError:
        return False


def _shown(messages: list[Message]) -> str:
    if not messages:
        return "there is no new message at all"
    lines = []
    for message in messages[:_SHOWN_MAX]:
        value = message.value[:_VALUE_BYTES_SHOWN_MAX]
        value += b"..." if len(message.value) > len(value) else b""
        parts = {"topic": message.topic, "key": message.key, "type": message.type, "value": value}
        lines.append(_joined(parts))
    if len(messages) > _SHOWN_MAX:
        lines.append(f"and {len(messages) - _SHOWN_MAX} more")
    return "there is:\n  " + "\n  ".join(lines)


def _joined(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
