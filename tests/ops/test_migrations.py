"""The migrations and the models say the same, and every step can be taken back and again."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

import outbox
from ops.migrate import current_and_head, migrate, migration_sql
from tests.support.migrating import check, downgrade
from tests.support.waiting import eventually

WRITE_KEY = """
    INSERT INTO reservations.idempotency_key (member_id, key, request_hash)
    VALUES (1, :key, decode(repeat('00', 32), 'hex'))
"""
WRITE_RESERVATION = """
    WITH made AS (
        INSERT INTO reservations.reservation (member_id, room_id, check_in, check_out, status, version)
        VALUES (1, 7, '2026-12-24', '2026-12-27', 'PENDING', 1) RETURNING id
    )
    INSERT INTO reservations.transition (reservation_id, version, status, message_id)
    SELECT id, 1, 'PENDING', gen_random_uuid() FROM made
"""
APPEND = """
    INSERT INTO outbox.message (message_id, topic, key, value, headers)
    VALUES (gen_random_uuid(), 'greetings', '1', '', '{}')
"""
LOOK = "SELECT count(*) FROM reservations.reservation"
# In which order transactions come to the tables: who makes a reservation looks at what is pending first.
ORDERS = {
    "key first": (WRITE_KEY, WRITE_RESERVATION, APPEND),
    "reservation first": (LOOK, WRITE_KEY, WRITE_RESERVATION, APPEND),
}


def test_models_and_migrations_agree(database_url: str) -> None:
    """Otherwise `alembic check` raises."""
    check(database_url)


def test_a_migrated_database_is_at_the_head(database_url: str) -> None:
    current, head = current_and_head(database_url)
    assert current == head


def test_every_migration_goes_up_down_and_up_with_rows_present(empty_database_url: str) -> None:
    migrate(empty_database_url)
    for revision in (
        "0011",
        "0010",
        "0009",
        "0008",
        "0007",
        "0006",
        "0005",
        "0004",
        "0003",
        "0002",
        "0001",
        "base",
    ):
        _fill(empty_database_url)
        downgrade(empty_database_url, revision)
        migrate(empty_database_url)
    check(empty_database_url)


def test_the_sql_for_operators_makes_the_same_schema(empty_database_url: str) -> None:
    sql = migration_sql(empty_database_url)
    with create_engine(empty_database_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql(sql)
    check(empty_database_url)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", ["up", "down"])
def test_a_writer_in_the_midst_of_its_work_is_not_ended_by_the_roles_migration(
    engine: Engine, order: str, step: str
) -> None:
    """Each waits for what the other has, and it is the migration that gives way."""
    url = engine.url.render_as_string(hide_password=False)
    downgrade(url, "0008" if step == "up" else "0009")
    first, *rest = ORDERS[order]
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as writer:
            writer.execute(text(first), {"key": "1"} if first == WRITE_KEY else {})
            migrating = threads.submit(_take, url, step)
            eventually(lambda: _waits(engine))
            for statement in rest:
                writer.execute(text(statement), {"key": "1"} if statement == WRITE_KEY else {})
        migrating.result()
    assert current_and_head(url)[0] == ("0009" if step == "up" else "0008")


def test_the_roles_migration_leaves_the_log_alone(engine: Engine) -> None:
    """Rooms and relays, who have nothing to do with reservations, hardly notice it."""
    url = engine.url.render_as_string(hide_password=False)
    with engine.begin() as writer:
        writer.execute(text(APPEND))
        downgrade(url, "0008")
        migrate(url)


def test_an_index_waits_for_older_transactions_without_a_limit(engine: Engine) -> None:
    """Nobody waits for it meanwhile; given up, it would leave a part of an index behind."""
    url = engine.url.render_as_string(hide_password=False)
    downgrade(url, "0009")
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as writer:
            writer.execute(text(WRITE_RESERVATION))
            migrating = threads.submit(migrate, url)
            eventually(lambda: migrating.done() or _builds_for_longer_than_a_lock_may(engine))
        migrating.result()
    assert current_and_head(url)[0] == current_and_head(url)[1]


def _builds_for_longer_than_a_lock_may(engine: Engine) -> bool:
    with engine.connect() as connection:
        query = text("""
            SELECT EXISTS (
                SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%'
                  AND clock_timestamp() > query_start + interval '5.5 s'
            )
        """)
        return bool(connection.scalar(query))


def test_writers_go_on_while_roles_are_made_and_taken_back(engine: Engine) -> None:
    """None is ended, in whichever order it comes to the tables."""
    url = engine.url.render_as_string(hide_password=False)
    downgrade(url, "0008")
    written, over, keys = Counter[str](), Event(), count()

    def write(order: str) -> None:
        while not over.is_set():
            with engine.begin() as connection:
                for statement in ORDERS[order]:
                    values = {"key": f"k{next(keys)}"} if statement == WRITE_KEY else {}
                    connection.execute(text(statement), values)
            written[order] += 1

    def all_go_on(since: Counter[str]) -> bool:
        return all(written[order] > since[order] + 5 for order in ORDERS)

    with ThreadPoolExecutor(len(ORDERS)) as threads:
        writers = [threads.submit(write, order) for order in ORDERS]
        try:
            for step in 3 * ("up", "down"):
                before = written.copy()
                _take(url, step)
                eventually(lambda: all_go_on(before) or any(w.done() for w in writers))  # noqa: B023
        finally:
            over.set()
        for writer in writers:
            writer.result()


def _take(url: str, step: str) -> None:
    if step == "up":
        migrate(url, "0009")
    else:
        downgrade(url, "0008")


def _waits(engine: Engine) -> bool:
    """Whether somebody waits for a lock in this database."""
    with engine.connect() as connection:
        waiting = text("""
            SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database()
        """)
        return bool(connection.scalar(waiting))


def _fill(url: str) -> None:
    """Put a row into a table of each schema, unless it is there still."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        outbox.declare_topics(connection, {"greetings": 100})
        outbox.append(connection, [outbox.Message("greetings", "1", "greeting", b"hello")])
        connection.execute(text("INSERT INTO rooms.room (id) VALUES (7) ON CONFLICT DO NOTHING"))
        connection.execute(
            text("""
                INSERT INTO reservations.reservation
                    (member_id, room_id, check_in, check_out, status, version)
                VALUES (1, 7, '2026-12-24', '2026-12-27', 'PENDING', 1)
            """)
        )
        connection.execute(
            text("""
                INSERT INTO consumers.dead_letter
                    (group_id, topic, partition, "offset", headers, reason, attempts)
                VALUES ('group', 'greetings', 0, 0, '{}', 'NOT_JSON', 1)
                ON CONFLICT DO NOTHING
            """)
        )
