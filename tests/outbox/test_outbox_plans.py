"""How the outbox is read: by index in every partition, whatever its size and whoever is still open."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

import outbox
from outbox import admin, reader
from outbox.reader import Cursor, Shard, difference
from tests.support.explain import FILL, executed_plan, indexes, is_of_log, nodes
from tests.support.relays import append, messages_of_keys, the_shard

ROWS_PER_DAY = 10_000
DAYS = 4
PARTITIONS = DAYS + 1  # with the default one


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """A log of several days, all of it published but for what a test appends."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        admin.ensure_partitions(
            connection, (now - timedelta(days=DAYS - 1)).date(), days_ahead=DAYS - 1
        )
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for day in range(DAYS):
            created_at = now - timedelta(days=day)
            connection.execute(FILL, {"created_at": created_at, "rows": ROWS_PER_DAY})
        connection.execute(text("VACUUM ANALYZE outbox.message"))
    return engine


@pytest.fixture
def reading(filled: Engine) -> Iterator[Connection]:
    """A connection as a relay has it."""
    engine = create_engine(filled.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        reader.prepare_session(connection)
        yield connection


def test_a_difference_of_moments_takes_one_scan_of_each_partition(
    filled: Engine, reading: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the index on transaction ids, also while an old transaction is open."""
    monkeypatch.setattr(difference, "_MOMENTS_S", 600.0)  # on a slow machine, too
    shard = the_shard(filled)
    seen = a_small_difference(filled, reading)
    assert len(reader.read(reading, seen, shard.hashes, limit=1_000).rows) == 35

    plan = executed_plan(reading, "pg_snapshot_xmin", [seen.snapshot, *hashes(shard), 1_000])
    assert indexes(plan) == {"xid"}
    assert len(scans(plan)) == PARTITIONS
    touches_few_pages(plan)


def test_a_small_difference_of_a_large_log_touches_few_pages(
    filled: Engine, reading: Connection
) -> None:
    """By position above the floor, by id what was in flight; also while an old one is open."""
    shard = the_shard(filled)
    seen = replace(a_small_difference(filled, reading), read_at=0.0)
    assert len(reader.read(reading, seen, shard.hashes, limit=1_000).rows) == 35

    in_flight = [seen.snapshot, seen.snapshot.split(":")[1], seen.next_xid]
    before_next = f"{seen.next_xid}:{seen.next_xid}:"
    values = [*in_flight, *hashes(shard), seen.floor, before_next, 1_000]
    plan = executed_plan(reading, "pg_snapshot_xip", values)
    assert indexes(plan) == {"xid", "pkey"}
    assert len(scans(plan)) == 2 * PARTITIONS, "late committers and new ones, in every partition"
    touches_few_pages(plan)


def a_small_difference(filled: Engine, reading: Connection) -> Cursor:
    """35 messages, some of a transaction that was open at the cursor."""
    with filled.connect() as old:
        outbox.append(old, messages_of_keys(5))
        seen = current(reading, the_shard(filled))
        append(filled, *messages_of_keys(30))
        old.commit()
    return seen


def touches_few_pages(plan: dict[str, Any]) -> None:
    assert not any(node["Node Type"] == "Seq Scan" for node in scans(plan))
    assert all(node["Actual Rows"] <= 40 for node in nodes(plan)), "nothing sorts more than is new"
    removed = sum(node.get("Rows Removed by Filter", 0) for node in scans(plan))
    assert removed <= 40, "the floor lies a little low"
    assert pages(plan) < 12 * PARTITIONS


def test_the_first_part_of_a_backlog_is_found_by_position_and_not_sorted(
    filled: Engine, reading: Connection
) -> None:
    """Else a backlog of a hundred million would be looked at whole before the first is published."""
    shard = the_shard(filled)
    assert len(reader.read(reading, shard.cursor, shard.hashes, limit=100).rows) == 100

    plan = executed_plan(reading, "pg_snapshot_xip", ["1:1:", 1, 1, *hashes(shard), 0, "1:1:", 100])
    assert all(node["Actual Rows"] <= 101 for node in nodes(plan))
    assert pages(plan) < 12 * PARTITIONS + 100


def test_a_part_of_a_backlog_is_found_by_position_and_not_sorted(
    filled: Engine, reading: Connection
) -> None:
    shard = the_shard(filled)
    limit, cursor = 100, shard.cursor
    for _ in range(3):
        cursor = reader.read(reading, cursor, shard.hashes, limit=limit).cursor
    assert cursor.batch_snapshot is not None

    values = [cursor.position, cursor.snapshot, cursor.batch_snapshot, *hashes(shard), limit]
    plan = executed_plan(reading, "NOT pg_visible_in_snapshot", values)
    assert indexes(plan) == {"pkey"}
    assert not any("Sort" in node["Node Type"] for node in nodes(plan))
    assert all(node["Actual Rows"] <= limit + 1 for node in nodes(plan))
    assert pages(plan) < 12 * PARTITIONS + limit


def current(connection: Connection, shard: Shard) -> Cursor:
    """The cursor of a relay that has read all there is."""
    return reader.read(connection, shard.cursor, shard.hashes, limit=10**6).cursor


def hashes(shard: Shard) -> list[int]:
    return [shard.hashes.hash_from, shard.hashes.hash_to]


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in nodes(plan) if "Scan" in node["Node Type"] and is_of_log(node)]


def pages(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_a_first_reading_of_a_huge_backlog_is_not_cut_short(engine: Engine) -> None:
    """It looks at every row of the backlog, however long that takes; nothing but locks bounds it."""
    impatient = {"options": "-c statement_timeout=10s -c lock_timeout=5s"}
    direct = create_engine(engine.url, isolation_level="AUTOCOMMIT", connect_args=impatient)
    with direct.connect() as connection:
        reader.prepare_session(connection)
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "0"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "5s"
    direct.dispose()
