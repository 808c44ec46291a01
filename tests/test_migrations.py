"""The migrations and the models say the same, and every step can be taken back and again."""

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import outbox
from ops.migrate import check, current_and_head, downgrade, migrate, migration_sql


def test_models_and_migrations_agree(database_url: str) -> None:
    """Otherwise `alembic check` raises."""
    check(database_url)


def test_a_migrated_database_is_at_the_head(database_url: str) -> None:
    current, head = current_and_head(database_url)
    assert current == head


def test_every_migration_goes_up_down_and_up_with_rows_present(empty_database_url: str) -> None:
    migrate(empty_database_url)
    for revision in ("0008", "0007", "0006", "0005", "0004", "0003", "0002", "0001", "base"):
        _fill(empty_database_url)
        downgrade(empty_database_url, revision)
        migrate(empty_database_url)
    check(empty_database_url)


def test_the_sql_for_operators_makes_the_same_schema(empty_database_url: str) -> None:
    sql = migration_sql(empty_database_url)
    with create_engine(empty_database_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql(sql)
    check(empty_database_url)


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
