"""The second wall around a member's reservations: what a query of the API forgets, Postgres does not."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from psycopg.errors import InsufficientPrivilege, UniqueViolation
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from api.identity.row_security import (
    ALL_MEMBERS,
    SETTING,
    install_row_security,
    set_member,
    setting_binds,
)
from domain.idempotency import RESERVATION_KEYS, Claimed, KeyedRequest
from domain.reservations import store
from domain.reservations.model import Cause, NewReservation, Reservation, by_member, cancel
from domain.reservations.reading import SINCE, Filter, page, since, transitions
from innbox_process.database import pooled_engine
from ops.local import Servers
from runtime.pipeline import Statement, in_one_round_trip
from tests.conftest import a_configuration
from tests.support.factories import reserved
from tests.support.saga import ALPINE, CHRISTMAS

ANN, BOB = 1, 2
HASH = bytes(32)
TABLES = ("reservation", "transition", "idempotency_key")


@pytest.fixture
def api(servers: Servers, database_url: str) -> Iterator[Engine]:
    """The API's engine, with one connection that all must share."""
    brief = a_configuration(servers, database_url, pool_size=1)
    engine = pooled_engine(brief, database_url, "test", "innbox_api")
    install_row_security(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def reading(api: Engine) -> Engine:
    return api.execution_options(isolation_level="AUTOCOMMIT")


@pytest.fixture
def of(api: Engine) -> dict[int, Reservation]:
    """Two members' reservations, each made under a key."""
    return {member: _reserve(api, member) for member in (ANN, BOB)}


def test_who_acts_for_nobody_sees_nothing(
    api: Engine, reading: Engine, of: dict[int, Reservation]
) -> None:
    assert of
    for engine in (api, reading):
        with engine.connect() as connection:
            assert seen(connection) == [0, 0, 0]


def test_a_query_that_forgets_the_member_shows_only_theirs(
    api: Engine, reading: Engine, of: dict[int, Reservation]
) -> None:
    """Reservations, their history and keys, in a transaction and alone."""
    ids = [one.id for one in of.values()]
    for engine in (api, reading):
        with engine.connect() as connection:
            set_member(connection, BOB)
            assert seen(connection) == [1, 1, 1]
            assert store.get(connection, of[ANN].id) is None
            assert store.get(connection, of[BOB].id) == of[BOB]
            assert list(store.lock(connection, ids)) == [of[BOB].id]
            history = transitions(list(connection.execute(*since(dict.fromkeys(ids, 0)))))
            assert [one.reservation_id for one in history] == [of[BOB].id]
            assert page(connection, Filter(ANN), None, 10) == []


def test_the_staff_see_everybody(reading: Engine, of: dict[int, Reservation]) -> None:
    with reading.connect() as connection:
        set_member(connection, ALL_MEMBERS)
        assert seen(connection) == [2, 2, 2]
        assert store.get(connection, of[ANN].id) == of[ANN]


def test_another_members_reservation_is_not_changed(
    api: Engine, of: dict[int, Reservation]
) -> None:
    """The version of a row that is not seen is never the one that was read."""
    cancelling = cancel(of[ANN])
    assert isinstance(cancelling, Reservation)
    moved = [(cancelling, Cause(UUID(int=9), by_member(BOB)))]
    with api.connect() as connection:
        set_member(connection, BOB)
        with pytest.raises(store.StaleVersion):
            store.save_transitions(connection, moved)


def test_nothing_is_written_in_another_members_name(api: Engine) -> None:
    for work in (_insert, _claim):
        with api.connect() as connection:
            set_member(connection, BOB)
            with pytest.raises(DBAPIError, match="row-level security") as refused:
                work(connection, ANN)
            assert isinstance(refused.value.orig, InsufficientPrivilege)


def test_a_connection_forgets_for_whom_it_was(
    api: Engine, reading: Engine, of: dict[int, Reservation]
) -> None:
    """There is only one, and its transactions end in every way that there is."""
    assert of
    for engine in (api, reading):
        with engine.connect() as connection:
            set_member(connection, BOB)
            assert seen(connection) == [1, 1, 1]
        with engine.connect() as connection:
            assert seen(connection) == [0, 0, 0]
    with api.begin() as connection:
        set_member(connection, BOB)
        assert seen(connection) == [1, 1, 1]
    with api.connect() as connection:
        assert seen(connection) == [0, 0, 0]
        assert connection.scalar(text("SELECT current_setting('innbox.member_id', true)")) == ""


def test_each_transaction_of_a_connection_is_for_the_member_that_was_said_last(
    api: Engine, of: dict[int, Reservation]
) -> None:
    """After a rollback as after a commit, and in the midst of one."""
    with api.connect() as connection:
        set_member(connection, BOB)
        for end in (connection.rollback, connection.commit):
            assert store.get(connection, of[BOB].id)
            end()
        assert store.get(connection, of[BOB].id)
        set_member(connection, ANN)
        assert store.get(connection, of[BOB].id) is None
        assert store.get(connection, of[ANN].id)


def test_in_one_round_trip_the_first_statement_says_for_whom(
    api: Engine, of: dict[int, Reservation]
) -> None:
    with api.connect() as connection:
        look: Statement = (text("SELECT id FROM reservations.reservation"), {})
        setting: Statement = (text(f"SELECT {SETTING}"), setting_binds(BOB))
        *_, rows = asyncio.run(in_one_round_trip(connection, [setting, look]))
        assert rows == [(of[BOB].id,)]
        *_, rows = asyncio.run(in_one_round_trip(connection, [look]))
        assert rows == []


def test_what_fails_beside_it_fails_as_ever(api: Engine, of: dict[int, Reservation]) -> None:
    """And the connection is of use again."""
    again = text("""
        INSERT INTO reservations.idempotency_key (member_id, key, request_hash)
        VALUES (:member, 'once', :hash)
    """)
    with api.connect() as connection:
        set_member(connection, BOB)
        with pytest.raises(IntegrityError) as refused:
            connection.execute(again, {"member": BOB, "hash": HASH})
        assert isinstance(refused.value.orig, UniqueViolation)
        connection.rollback()
        assert store.get(connection, of[BOB].id)


def test_the_results_and_the_owner_see_everybody(
    servers: Servers, database_url: str, engine: Engine, of: dict[int, Reservation]
) -> None:
    """The owner, because the wall is not there for who verifies, migrates and backs up."""
    assert len(of) == 2
    brief = a_configuration(servers, database_url)
    results = pooled_engine(brief, database_url, "test", "innbox_results")
    with results.connect() as connection:
        everybodys = text("SELECT member_id FROM reservations.reservation ORDER BY id")
        assert list(connection.scalars(everybodys)) == [ANN, BOB]
    results.dispose()
    with engine.connect() as connection:
        assert seen(connection) == [2, 2, 2]


def test_a_members_list_reads_the_index_behind_the_wall(engine: Engine, reading: Engine) -> None:
    """In its order and no further than the page, whatever else is asked."""
    with engine.begin() as connection:
        connection.execute(FILL)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE reservations.reservation"))
    for more in ("", "AND id < 90000 AND room_id = 7 AND check_in >= '2020-01-01'"):
        with reading.connect() as connection:
            set_member(connection, BOB)
            plan = "\n".join(connection.scalars(text(LIST.format(more=more))))
        assert "Index Scan Backward using ix_reservation_member_id_id" in plan
        assert "Index Cond: (member_id = 2)" in plan or "Index Cond: ((member_id = 2) AND" in plan
        assert "actual rows=21.00" in plan
        assert "Rows Removed" not in plan
        assert "Sort" not in plan


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_what_is_new_is_looked_up_in_the_index_behind_the_wall(
    engine: Engine, reading: Engine, mode: str
) -> None:
    """For as many as may wait, and without a look at any other reservation."""
    with engine.begin() as connection:
        connection.execute(FILL)
        connection.execute(FILL_HISTORY)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE reservations.reservation, reservations.transition"))
    ids = list(range(1, 100_001, 500))
    _, of = since(dict.fromkeys(ids, 1))
    with reading.connect() as connection:
        set_member(connection, ALL_MEMBERS)
        connection.execute(text(f"SET plan_cache_mode = {mode}"))
        sql = SINCE.text.replace(":ids", "$1").replace(":versions", "$2")
        connection.exec_driver_sql(f"PREPARE news (text, text) AS {sql}")
        asked = text(f"{EXPLAIN} EXECUTE news ('{of['ids']}', '{of['versions']}')")
        plan = "\n".join(connection.scalars(asked))
    assert "Index Scan using pk_transition" in plan
    assert f"loops={len(ids)}" in plan
    assert "Seq Scan" not in plan
    assert "hashed" not in plan


FILL = text("""
    INSERT INTO reservations.reservation (member_id, room_id, check_in, check_out, status, version)
    SELECT number % 200, 7, '2027-01-01', '2027-01-02', 'CONFIRMED', 2
    FROM generate_series(1, 100000) AS number
""")
FILL_HISTORY = text("""
    INSERT INTO reservations.transition (reservation_id, version, status, message_id)
    SELECT id, number, CASE number WHEN 1 THEN 'PENDING' ELSE 'CONFIRMED' END, gen_random_uuid()
    FROM reservations.reservation CROSS JOIN generate_series(1, 2) AS number
""")
EXPLAIN = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF)"
LIST = f"""
    {EXPLAIN}
    SELECT * FROM reservations.reservation WHERE member_id = 2 {{more}} ORDER BY id DESC LIMIT 21
"""


def seen(connection: Connection) -> list[Any]:
    return [
        connection.scalar(text(f"SELECT count(*) FROM reservations.{table}")) for table in TABLES
    ]


def _reserve(api: Engine, member: int) -> Reservation:
    with api.begin() as connection:
        set_member(connection, member)
        _claim(connection, member)
        return _insert(connection, member)


def _insert(connection: Connection, member: int) -> Reservation:
    wish = NewReservation(member, ALPINE, CHRISTMAS)
    return reserved(connection, wish, Cause(UUID(int=member), by_member(member)))


def _claim(connection: Connection, member: int) -> None:
    assert RESERVATION_KEYS.claim(connection, KeyedRequest(member, "once", HASH)) == Claimed()
