"""Tests of one's own, for orders.py: what is announced, and what a crash leaves. No broker is needed.

DATABASE_URL names an empty database:

    pytest examples/test_orders.py
"""

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import ProgrammingError

import orders
from outbox.testing import assert_appended, assert_nothing_appended, crash_after, drain


@pytest.fixture(scope="module")
def prepared() -> Iterator[Engine]:
    engine = create_engine(os.environ["DATABASE_URL"])
    orders.prepare(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(prepared: Engine) -> Engine:
    """A database without orders, and without messages that are new."""
    with prepared.begin() as connection:
        connection.execute(text("TRUNCATE orders RESTART IDENTITY"))
    drain(prepared)
    return prepared


def placed(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT item FROM orders ORDER BY id")).scalars())


def test_an_order_is_announced(engine: Engine) -> None:
    orders.place(engine, "tea")
    with engine.connect() as connection:
        assert_appended(connection, topic="orders", key="1", value={"order": 1, "item": "tea"})


def test_messages_come_in_the_order_of_the_orders(engine: Engine) -> None:
    for item in ("tea", "coffee"):
        orders.place(engine, item)
    assert [message.key for message in drain(engine)] == ["1", "2"]


def test_an_order_that_fails_announces_nothing(engine: Engine) -> None:
    with pytest.raises(ProgrammingError):
        orders.place(engine, object())  # type: ignore[arg-type] # no item at all
    with engine.connect() as connection:
        assert_nothing_appended(connection)


def test_a_crash_before_the_commit_loses_both(engine: Engine) -> None:
    with crash_after("append", engine):
        orders.place(engine, "tea")
    assert (placed(engine), drain(engine)) == ([], [])


def test_a_crash_after_the_commit_loses_nothing(engine: Engine) -> None:
    with crash_after("commit", engine):
        orders.place(engine, "tea")
    assert placed(engine) == ["tea"]
    assert [message.type for message in drain(engine)] == ["order.placed"]
