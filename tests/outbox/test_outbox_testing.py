"""The kit for the tests of whoever appends: readable failures, everything once, honest crashes."""

import asyncio

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import outbox
from domain.messages import ROOM_RESERVE
from outbox import Message, reader
from outbox.testing import (
    Crashed,
    assert_appended,
    assert_nothing_appended,
    crash_after,
    drain,
)
from tests.support.relays import a_message, append, ids_of, messages_of_keys, the_shard

PLACED = Message(ROOM_RESERVE, "7", "order.placed", b'{"id": 7}')
PAID = Message(ROOM_RESERVE, "8", "order.paid", b"\x00 no JSON")


def test_what_was_appended_is_found_by_any_of_its_parts(engine: Engine) -> None:
    """In the open transaction as after it; a value is compared as JSON unless it is bytes."""
    with Session(engine) as session:
        outbox.append(session, [PAID, PLACED])
        assert assert_appended(session).message_id == PAID.message_id
        assert assert_appended(session, key="7").message_id == PLACED.message_id
        assert_appended(session, topic=ROOM_RESERVE, type="order.placed", value={"id": 7})
        assert_appended(session, value=b'{"id": 7}')
        session.commit()
        assert_appended(session, type="order.paid", value=PAID.value)


def test_a_failure_shows_what_was_asked_for_and_what_there_is(engine: Engine) -> None:
    append(engine, PLACED)
    with engine.connect() as connection, pytest.raises(AssertionError) as failure:
        assert_appended(connection, key="7", type="order.paid")
    assert str(failure.value) == (
        "no new message has key='7', type='order.paid'; there is:\n"
        "  topic='room-reserve', key='7', type='order.placed', value=b'{\"id\": 7}'"
    )

    with engine.connect() as connection, pytest.raises(AssertionError) as failure:
        assert_nothing_appended(connection)
    assert "key='7', type='order.placed'" in str(failure.value)


def test_a_failure_stays_readable_when_there_is_much_to_show(engine: Engine) -> None:
    append(engine, *(a_message(value=b"x" * 10_000) for _ in range(30)))
    with engine.connect() as connection, pytest.raises(AssertionError) as failure:
        assert_nothing_appended(connection)
    assert "and 10 more" in str(failure.value)
    assert len(str(failure.value)) < 10_000


def test_what_is_drained_is_no_longer_new(engine: Engine) -> None:
    append(engine, PLACED)
    with engine.connect() as connection:
        assert ids_of(drain(connection)) == ids_of([PLACED])
        assert_nothing_appended(connection)
        with pytest.raises(AssertionError, match="there is no new message at all"):
            assert_appended(connection)


def test_a_drain_has_every_committed_message_once_and_in_publishing_order(engine: Engine) -> None:
    """More than one reading holds; what is open comes with its commit."""
    early, late = messages_of_keys(2_500), messages_of_keys(3)
    with engine.connect() as open_one, engine.connect() as rolled_back:
        outbox.append(open_one, late)
        append(engine, *early)
        outbox.append(rolled_back, messages_of_keys(2))
        rolled_back.rollback()
        assert ids_of(drain(engine)) == ids_of(early)
        assert drain(engine) == []
        open_one.commit()
    assert ids_of(drain(engine)) == ids_of(late)
    assert drain(engine) == []


def test_a_drained_message_is_whole_with_the_headers_it_would_be_sent_with(engine: Engine) -> None:
    message = Message(ROOM_RESERVE, "7", "order.placed", b"{}", "/orders", headers={"own": "1"})
    append(engine, message)
    (drained,) = drain(engine)
    sent = {name: drained.headers[name] for name in ("ce_id", "ce_type", "own")}
    assert sent == {"ce_id": str(message.message_id), "ce_type": "order.placed", "own": "1"}
    assert (drained.topic, drained.key, drained.type, drained.value, drained.source) == (
        (message.topic, message.key, message.type, message.value, message.source)
    )


def test_a_drain_leaves_a_relays_shard_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        reader.claim(connection, "relay", lease_s=60)
    with pytest.raises(RuntimeError, match="a relay has shard 1"):
        drain(engine)
    assert the_shard(engine).owner == "relay"


def test_a_drain_leaves_no_lease_and_no_settings_behind(engine: Engine) -> None:
    drain(engine)
    assert the_shard(engine).owner is None
    with engine.connect() as connection:
        assert connection.execute(text("SHOW enable_seqscan")).scalar_one() == "on"


def test_a_session_of_an_asynchronous_engine_can_be_looked_into(database_url: str) -> None:
    async def look() -> list[Message]:
        engine = create_async_engine(database_url)
        async with AsyncSession(engine) as session:
            await outbox.append_async(session, [PLACED])
            await session.run_sync(assert_appended, key="7")
            await session.commit()
            drained = await session.run_sync(drain)
        await engine.dispose()
        return drained

    assert ids_of(asyncio.run(look())) == ids_of([PLACED])


def place_order(engine: Engine) -> None:
    with engine.begin() as connection:
        outbox.declare_topics(connection, {"orders": 100})  # the business write
        outbox.append(connection, [PLACED])


def is_placed(engine: Engine) -> bool:
    with engine.connect() as connection:
        return "orders" in outbox.known_topics(connection)


def test_a_crash_between_the_write_and_the_commit_loses_both(engine: Engine) -> None:
    with crash_after("append", engine):
        place_order(engine)
    assert (is_placed(engine), drain(engine)) == (False, [])

    place_order(engine)
    assert (is_placed(engine), ids_of(drain(engine))) == (True, ids_of([PLACED]))


def test_a_crash_after_the_commit_loses_nothing(engine: Engine) -> None:
    with crash_after("commit", engine):
        place_order(engine)
    assert (is_placed(engine), ids_of(drain(engine))) == (True, ids_of([PLACED]))


def test_a_handler_of_all_exceptions_does_not_survive_a_crash(engine: Engine) -> None:
    """Nor can a stubborn one go on with the transaction: its connection is gone."""

    def stubborn(connection: Connection) -> None:
        try:
            outbox.append(connection, [PLACED])
        except Exception:  # noqa: BLE001 - what the test is about
            pytest.fail("a dead process handled its death")
        except Crashed:
            with pytest.raises(PendingRollbackError):
                connection.commit()

    with engine.connect() as connection, crash_after("append", engine):
        stubborn(connection)
    assert drain(engine) == []


def test_a_commit_without_a_message_is_no_crash_point(engine: Engine) -> None:
    with crash_after("commit", engine):
        with engine.begin() as connection:
            outbox.declare_topics(connection, {"orders": 100})
        with engine.connect() as connection:
            outbox.append(connection, [a_message()])
            connection.rollback()
            outbox.declare_topics(connection, {"payments": 100})
            connection.commit()
        append(engine, PLACED)
        append(engine, PAID)  # which it never comes to
    assert ids_of(drain(engine)) == ids_of([PLACED])


def test_a_block_that_never_comes_to_its_crash_point_fails(engine: Engine) -> None:
    """Or a test could go on to prove nothing; afterwards the engine crashes no more."""
    with (
        pytest.raises(AssertionError, match="never came to the append"),
        crash_after("append", engine),
    ):
        pass
    append(engine, PLACED)
    assert ids_of(drain(engine)) == ids_of([PLACED])


def test_sessions_crash_too_with_and_without_asyncio(engine: Engine, database_url: str) -> None:
    with crash_after("commit", engine), Session(engine) as session, session.begin():
        outbox.append(session, [PLACED])

    async def crash() -> None:
        async_engine = create_async_engine(database_url)
        with crash_after("append", async_engine):
            async with AsyncSession(async_engine) as session, session.begin():
                await outbox.append_async(session, [a_message()])
        await async_engine.dispose()

    asyncio.run(crash())
    assert ids_of(drain(engine)) == ids_of([PLACED])
