"""The library in somebody else's project: Core or ORM, with or without asyncio, by one implementation."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import NullPool

import outbox
import outbox.schema
import outbox.schema.operations
import outbox.testing
from outbox import Message, UnknownTopic, append_async, install_doorbell
from outbox.reader import listen, wait_for_notify
from outbox.testing import drain
from tests.support.relays import a_message

DEADLINE_S = 10.0
ROOT = Path(__file__).parents[2]


class Model(DeclarativeBase):
    pass


class Order(Model):
    __tablename__ = "library_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


@pytest.fixture
def orders(engine: Engine) -> Engine:
    """A database with a business table beside the outbox."""
    Model.metadata.create_all(engine)
    return engine


@pytest.fixture
def session(orders: Engine) -> Iterator[Session]:
    with Session(orders) as session:
        yield session


def through_a_connection(engine: Engine, message: Message) -> None:
    with engine.begin() as connection:
        outbox.append(connection, [message])


def through_a_session(engine: Engine, message: Message) -> None:
    with Session(engine) as session, session.begin():
        outbox.append(session, [message])


def through_a_scoped_session(engine: Engine, message: Message) -> None:
    session = scoped_session(sessionmaker(engine))
    outbox.append(session, [message])
    session.commit()
    session.remove()


async def through_an_async_connection(engine: AsyncEngine, message: Message) -> None:
    async with engine.begin() as connection:
        await append_async(connection, [message])


async def through_an_async_session(engine: AsyncEngine, message: Message) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await append_async(session, [message])


@pytest.mark.parametrize(
    "append", [through_a_connection, through_a_session, through_a_scoped_session]
)
def test_an_append_is_heard_and_read(
    engine: Engine, append: Callable[[Engine, Message], None]
) -> None:
    message = a_message()
    with closing(install_doorbell(engine)), _listening(engine) as listener:
        append(engine, message)
        assert wait_for_notify(listener, DEADLINE_S)
    assert [drained.message_id for drained in drain(engine)] == [message.message_id]


@pytest.mark.parametrize("append", [through_an_async_connection, through_an_async_session])
def test_an_asynchronous_append_is_heard_and_read(
    engine: Engine,
    database_url: str,
    append: Callable[[AsyncEngine, Message], Awaitable[None]],
) -> None:
    message = a_message()

    async def appended_and_heard(listener: Connection) -> bool:
        async_engine = create_async_engine(database_url)
        doorbell = install_doorbell(async_engine)
        await append(async_engine, message)
        is_heard = await asyncio.to_thread(wait_for_notify, listener, DEADLINE_S)
        await asyncio.to_thread(doorbell.close)
        await async_engine.dispose()
        return is_heard

    with _listening(engine) as listener:
        assert asyncio.run(appended_and_heard(listener))
    assert [drained.message_id for drained in drain(engine)] == [message.message_id]


def test_an_asynchronous_append_is_the_same_in_all_it_refuses_and_takes(
    engine: Engine, database_url: str
) -> None:
    async def refused_then_rolled_back() -> None:
        async_engine = create_async_engine(database_url)
        async with AsyncSession(async_engine) as session:
            with pytest.raises(UnknownTopic):
                await append_async(session, [a_message(topic="never-declared")])
            await append_async(session, [a_message()], headers={"h": "1"}, lock_keys=True)
            await session.rollback()
        await async_engine.dispose()

    asyncio.run(refused_then_rolled_back())
    assert drain(engine) == []


def test_objects_of_a_session_and_its_messages_live_and_die_together(session: Session) -> None:
    session.add(Order(id=1, item="tea"))
    outbox.append(session, [a_message(key="1")])
    session.rollback()
    assert (_orders(session), drain(session)) == ([], [])

    session.add(Order(id=2, item="tea"))
    outbox.append(session, [a_message(key="2")])
    session.commit()
    assert (_orders(session), _keys(session)) == ([2], ["2"])


def test_a_savepoint_of_a_session_takes_its_messages_with_it(session: Session) -> None:
    with session.begin():
        outbox.append(session, [a_message(key="before")])
        with session.begin_nested() as savepoint:
            outbox.append(session, [a_message(key="inside")])
            savepoint.rollback()
        with session.begin_nested():
            outbox.append(session, [a_message(key="kept")])
    assert _keys(session) == ["before", "kept"]


def test_a_session_has_its_rows_locked_before_its_messages_take_their_places(
    orders: Engine, session: Session
) -> None:
    """Or another writer of the row could commit first and be published second."""
    session.add(Order(id=1, item="tea"))
    session.commit()
    session.get_one(Order, 1).item = "coffee"
    outbox.append(session, [a_message()])

    with orders.connect() as other, pytest.raises(OperationalError, match="could not obtain lock"):
        other.execute(text("SELECT FROM library_order WHERE id = 1 FOR UPDATE NOWAIT"))


def test_a_header_that_is_no_string_is_refused(engine: Engine) -> None:
    """The relay could never send it, and it would block its key."""
    message = Message("room-reserve", "7", "test", b"{}", headers={"n": 1})  # type: ignore[dict-item]
    with engine.begin() as connection, pytest.raises(TypeError, match="header 'n'"):
        outbox.append(connection, [message])
    assert drain(engine) == []


@pytest.mark.unit
def test_the_library_imports_what_only_some_need_when_they_need_it() -> None:
    """Alembic, greenlet and the ORM are its users' own choice."""
    script = """
        import sys
        for absent in ("alembic", "greenlet", "sqlalchemy.orm", "confluent_kafka", "pytest"):
            sys.modules[absent] = None
        import outbox, outbox.admin, outbox.reader, outbox.schema, outbox.testing
    """
    subprocess.run([sys.executable, "-c", dedent(script)], check=True, cwd=ROOT)


def _listening(engine: Engine) -> "closing[Connection]":
    own = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
    listen(own)
    return closing(own)


def _orders(session: Session) -> list[int]:
    return [order.id for order in session.query(Order).order_by(Order.id)]


def _keys(session: Session) -> list[str]:
    return [message.key for message in drain(session)]
