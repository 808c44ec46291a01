"""Appending: in the caller's transaction and no other, and nothing that could not be published."""

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

import outbox
from domain.messages import ROOM_RESERVE, VALUE_BYTES_MAX
from outbox import HeadersTooLarge, KeyMissing, Message, OutboxError, UnknownTopic, ValueTooLarge
from tests.support.relays import a_message, append


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that is the test's to end."""
    with engine.connect() as connection:
        yield connection


def test_a_rollback_leaves_no_message(engine: Engine, connection: Connection) -> None:
    outbox.append(connection, [a_message()])
    assert len(appended_in(connection)) == 1
    connection.rollback()
    assert stored(engine) == []


def test_a_savepoint_that_is_rolled_back_leaves_none_of_its_messages(
    engine: Engine, connection: Connection
) -> None:
    before, inside, kept, after = (a_message() for _ in range(4))
    outbox.append(connection, [before])
    savepoint = connection.begin_nested()
    outbox.append(connection, [inside])
    savepoint.rollback()
    with connection.begin_nested():
        outbox.append(connection, [kept])
    outbox.append(connection, [after])
    connection.commit()

    assert stored(engine) == [before.message_id, kept.message_id, after.message_id]


def test_append_leaves_the_transaction_to_its_caller(connection: Connection) -> None:
    with connection.begin() as transaction:
        outbox.append(connection, [a_message()])
        assert transaction.is_active
        assert connection.get_transaction() is transaction


def test_messages_of_one_call_keep_the_order_in_which_they_were_given(engine: Engine) -> None:
    messages = [a_message(key=str(number % 7)) for number in range(500)]
    append(engine, *messages)
    assert stored(engine) == [message.message_id for message in messages]


def test_any_iterable_and_none_at_all_will_do(engine: Engine, connection: Connection) -> None:
    outbox.append(connection, (a_message() for _ in range(3)))
    outbox.append(connection, [])
    connection.commit()
    assert len(stored(engine)) == 3


@pytest.mark.parametrize(
    ("unpublishable", "refusal"),
    [
        (a_message(topic="never-declared"), UnknownTopic),
        (a_message(key=""), KeyMissing),
        (a_message(value=b"x" * (VALUE_BYTES_MAX + 1)), ValueTooLarge),
        (a_message(key="k" * 100_000), HeadersTooLarge),
        (Message(ROOM_RESERVE, "7", "test", b"{}", headers={"h": "h" * 100_000}), HeadersTooLarge),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_no_broker_would_take_is_refused_before_anything_is_written(
    engine: Engine, connection: Connection, unpublishable: Message, refusal: type[OutboxError]
) -> None:
    """The transaction is as good as before, and the messages beside it are not written either."""
    with pytest.raises(refusal) as refused:
        outbox.append(connection, [a_message(), unpublishable, a_message()])
    assert refused.value.code == refusal.code
    assert appended_in(connection) == []

    kept = a_message(value=b"x" * VALUE_BYTES_MAX)
    outbox.append(connection, [kept])
    connection.commit()
    assert stored(engine) == [kept.message_id]


def test_a_key_is_required_by_the_table_too(engine: Engine) -> None:
    """For writers in other languages."""
    with pytest.raises(Exception, match="ck_message_key_given"), engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO outbox.message (message_id, topic, key, value, headers)
                VALUES (gen_random_uuid(), 'room-reserve', '', '', '{}')
            """)
        )


def test_a_topic_that_is_declared_or_widened_later_is_taken_at_once(engine: Engine) -> None:
    """Whatever would be refused is looked up again first, so a deployment needs no restart."""
    with pytest.raises(UnknownTopic):
        append(engine, a_message(topic="later"))
    declare(engine, {"later": 10})
    append(engine, a_message(topic="later"))

    with pytest.raises(ValueTooLarge) as refused:
        append(engine, a_message(topic="later", value=b"x" * 11))
    assert (refused.value.value_bytes, refused.value.value_bytes_max) == (11, 10)
    declare(engine, {"later": 20})
    append(engine, a_message(topic="later", value=b"x" * 11))


def test_headers_are_those_of_cloud_events_then_the_callers_then_the_messages(
    engine: Engine,
) -> None:
    message = Message(
        ROOM_RESERVE,
        "7",
        "room.reserved",
        b"{}",
        source="/rooms",
        headers={"own": "1", "both": "m"},
    )
    with engine.begin() as connection:
        outbox.append(connection, [message], headers={"traceparent": "00-ab-cd-01", "both": "c"})
    (headers,) = stored_headers(engine)

    assert headers.pop("ce_time").endswith("+00:00")
    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": str(message.message_id),
        "ce_type": "room.reserved",
        "ce_source": "/rooms",
        "content-type": "application/json",
        "traceparent": "00-ab-cd-01",
        "own": "1",
        "both": "m",
    }


def test_a_session_of_the_orm_appends_in_its_own_transaction(engine: Engine) -> None:
    kept, lost = a_message(), a_message()
    with Session(engine) as session:
        outbox.append(session.connection(), [kept])
        session.commit()
        outbox.append(session.connection(), [lost])
        session.rollback()
    assert stored(engine) == [kept.message_id]


def test_locked_keys_make_other_writers_of_the_key_wait_until_the_end(engine: Engine) -> None:
    """Also when two writers name the same keys in opposite orders."""
    with engine.connect() as first, engine.connect() as second:
        outbox.append(first, [a_message(key="a"), a_message(key="b")], lock_keys=True)
        second.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(Exception, match="lock timeout"):
            outbox.append(second, [a_message(key="b"), a_message(key="a")], lock_keys=True)
        second.rollback()
        outbox.append(second, [a_message(key="c")], lock_keys=True)
        first.commit()
        outbox.append(second, [a_message(key="a")], lock_keys=True)
        second.commit()
    assert len(stored(engine)) == 4


def test_a_class_of_the_callers_own_will_do(engine: Engine) -> None:
    class Booked:
        message_id = uuid4()
        topic, key, type, source, value = ROOM_RESERVE, "7", "booked", "/", b"{}"
        headers: dict[str, str] = {}  # noqa: RUF012 - a message of one test

    with engine.begin() as connection:
        outbox.append(connection, [Booked()])
    assert stored(engine) == [Booked.message_id]


def declare(engine: Engine, topics: dict[str, int]) -> None:
    with engine.begin() as connection:
        outbox.declare_topics(connection, topics)


# Within a statement of the caller's own.

ROW_AND_MESSAGE = text(f"""
    WITH made AS (
        INSERT INTO made (word) SELECT CAST(:word AS text) RETURNING id
    ), appended AS (
        {outbox.append_within(value="convert_to(CAST(id AS text), 'UTF8')", rows="made")}
    )
    SELECT id FROM made
""")


def test_a_message_that_says_what_its_statement_draws(
    engine: Engine, connection: Connection
) -> None:
    """It is what `append` would have made of it."""
    message, limits = a_message(), outbox.known_topics(connection)
    connection.execute(
        text("CREATE TABLE made (id bigint GENERATED ALWAYS AS IDENTITY, word text)")
    )
    binds = outbox.prepare(message, limits, headers={"shade": "blue"})
    assert connection.scalar(ROW_AND_MESSAGE, {"word": "one", **binds}) == 1
    outbox.append(connection, [replace(message, value=b"1")], headers={"shade": "blue"})
    within, appended = connection.execute(
        text("SELECT topic, key, key_hash, value, headers FROM outbox.message ORDER BY position")
    ).all()

    assert within[:4] == appended[:4]
    assert within.headers | {"ce_time": ""} == appended.headers | {"ce_time": ""}
    assert list(within.headers) == list(appended.headers)
    connection.rollback()
    assert stored(engine) == []


@pytest.mark.parametrize(
    ("unfit", "refusal"),
    [
        ({"topic": "nowhere"}, UnknownTopic),
        ({"key": ""}, KeyMissing),
        ({"value": bytes(VALUE_BYTES_MAX + 1)}, ValueTooLarge),
    ],
)
def test_what_append_refuses_is_refused_within_a_statement_too(
    connection: Connection, unfit: dict[str, object], refusal: type[OutboxError]
) -> None:
    limits = outbox.known_topics(connection)
    with pytest.raises(refusal):
        outbox.prepare(replace(a_message(), **unfit), limits)  # type: ignore[arg-type]


def appended_in(connection: Connection) -> list[UUID]:
    ids = connection.execute(text("SELECT message_id FROM outbox.message ORDER BY position"))
    return list(ids.scalars())


def stored(engine: Engine) -> list[UUID]:
    with engine.connect() as connection:
        return appended_in(connection)


def stored_headers(engine: Engine) -> list[dict[str, str]]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT headers::text FROM outbox.message")).scalars()
        return [msgspec.json.decode(headers, type=dict[str, str]) for headers in found]


@pytest.mark.unit
def test_an_error_of_an_applications_own_takes_a_text_or_fields() -> None:
    """As those of the outbox do, each with a code that follows its name."""

    class NotOurs(OutboxError):
        """It has a text only."""

    class TooMany(OutboxError):
        text = "{count} are too many"
        count: int

    assert (str(NotOurs("why")), NotOurs.code) == ("why", "NOT_OURS")
    assert (str(TooMany(7)), TooMany(7).count, TooMany.code) == ("7 are too many", 7, "TOO_MANY")
