"""Sequences left behind, as by logical replication: found in the catalogue, and nothing is lost."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from consumers import dead_letters
from innbox_process.database import advice
from ops.environment import as_environment
from ops.local import Servers
from outbox import admin, reader
from outbox.reader import SequenceBehind
from runtime.settings import Settings
from tests.conftest import a_configuration
from tests.support.commands import innbox
from tests.support.db_faults import execute
from tests.support.kafka_reader import ids
from tests.support.poison import garbage
from tests.support.relays import (
    a_message,
    a_relay,
    append,
    appended,
    autocommit,
    first_deliveries,
    is_wholly_relayed,
    messages_of_keys,
    published,
    read_all,
)
from tests.support.saga import a_reservation
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
PRODUCT = ("api", "consumers", "domain", "migrations", "ops", "outbox", "relay", "runtime")

EVERY_SEQUENCE = text("SELECT schemaname || '.' || sequencename FROM pg_sequences")
SET_BACK_ALL = """
    DO $$ DECLARE sequence regclass; BEGIN
        FOR sequence IN SELECT seqrelid FROM pg_sequence LOOP
            PERFORM setval(sequence, 1, false);
        END LOOP;
    END $$
"""
SET_BACK_POSITIONS = "SELECT setval('outbox.message_position_seq', {next_value}, false)"
SKIP = """
    INSERT INTO outbox.dead_letter (message_id, topic, key, value, headers, position, created_at,
                                    reason, attempts, blocked_at, skipped_by)
    SELECT message_id, topic, key, value, headers, position, created_at, 'odd', 1, now(), 'Ann'
    FROM outbox.message LIMIT 1
"""
REPLAY = """
    INSERT INTO outbox.replay (topics, keys, message_ids, per_second, cursors, position,
        first_position, last_position, first_at, last_at, expected, left_out, started_by)
    VALUES ('{room-reserve}', '{}', '{}', 0, '[]', 0, 1, 1, now(), now(), 1, 0, 'Ann')
"""


@pytest.mark.unit
def test_no_conflict_is_passed_over_without_saying_which() -> None:
    """ON CONFLICT without a target swallows whatever conflicts: a colliding id, too."""
    silent = re.compile(r"ON CONFLICT\s+DO|on_conflict_do_nothing\(\s*\)")
    for package in PRODUCT:
        for file in (ROOT / package).rglob("*.py"):
            assert not silent.search(file.read_text()), file


@pytest.fixture
def brief(servers: Servers, database_url: str) -> Settings:
    """Settings of a test that needs no topics on the brokers."""
    return a_configuration(servers, database_url)


def write_everywhere(engine: Engine) -> None:
    """Draw from every sequence that there is."""
    a_reservation(engine)
    with engine.begin() as connection:
        dead_letters.keep(connection, "a group", [(garbage(b"x"), "a test")])
    execute(engine, SKIP)
    execute(engine, REPLAY)
    with engine.begin() as connection:
        shard = reader.claim(connection, "a test", lease_s=60)
        assert shard is not None
        for made in admin.split(connection, shard):
            assert made.id > shard.id


def test_a_rebase_advances_every_sequence_that_is_behind_and_no_other(
    engine: Engine, brief: Settings, tmp_path: Path
) -> None:
    """Those of all schemas, whatever is added later, by what the catalogue knows of them."""
    a_reservation(engine)
    write_everywhere(engine)
    execute(engine, SET_BACK_ALL)
    with engine.connect() as connection:
        every = set(connection.scalars(EVERY_SEQUENCE))
    with pytest.raises(IntegrityError, match="pk_reservation") as collided:
        a_reservation(engine)
    assert "outbox rebase" in str(advice(collided.value))

    environment = as_environment(brief)
    done = innbox("outbox", "rebase", "--yes", "--json", data=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    (database,) = json.loads(done.stdout)["databases"]
    assert {one["sequence"] for one in database["sequences"]} == every
    write_everywhere(engine)
    with engine.begin() as connection:
        assert admin.sequences_behind(connection) == []


def test_a_sequence_is_never_set_back(engine: Engine) -> None:
    """Not even by who looked before others wrote; and only those of the schema that is asked for."""
    a_reservation(engine)
    execute(engine, "SELECT setval('reservations.reservation_id_seq', 1, false)")
    with engine.begin() as connection:
        assert admin.sequences_behind(connection, "outbox") == []
        (behind,) = admin.sequences_behind(connection)
        assert (behind.next_value, behind.highest) == (1, 1)
    execute(engine, "SELECT setval('reservations.reservation_id_seq', 100)")
    with engine.begin() as connection:
        assert admin.advance_sequence(connection, behind) is None
    assert a_reservation(engine).id == 101


def test_what_was_appended_at_positions_that_were_taken_is_read_once_and_in_order(
    engine: Engine,
) -> None:
    """Behind what was there before, though at its very positions; in parts, whose ends fall anywhere."""
    early, old = messages_of_keys(20), messages_of_keys(20)
    append(engine, *early)
    with autocommit(engine) as relay:
        reader.prepare_session(relay)
        shard = reader.claim(relay, "a relay", lease_s=60)
        assert shard is not None
        reading = reader.read(relay, shard.cursor, shard.hashes, limit=100)
        reader.release_shard(relay, reader.save(relay, shard, reading.cursor, lease_s=60))
    append(engine, *old)
    execute(engine, SET_BACK_POSITIONS.format(next_value=11))
    append(engine, *(new := messages_of_keys(25)))

    with engine.begin() as connection:
        with pytest.raises(SequenceBehind, match="`outbox rebase`"):
            reader.check_positions(connection)
        assert admin.rebase(connection) is None
        reader.check_positions(connection)
    append(engine, *(later := messages_of_keys(5)))
    assert read_all(engine) == appended([*old, *new, *later])


def test_where_clocks_disagree_nothing_is_lost_all_the_same(engine: Engine) -> None:
    """Messages of a server that was ahead: what is new cannot be told by its time, and is not moved."""
    append(engine, *(old := messages_of_keys(20)))
    execute(engine, "UPDATE outbox.message SET created_at = created_at + interval '1 hour'")
    with autocommit(engine) as relay:
        reader.prepare_session(relay)
        shard = reader.claim(relay, "a relay", lease_s=60)
        assert shard is not None
        reading = reader.read(relay, shard.cursor, shard.hashes, limit=100)
        assert len(reading.rows) == len(old)
        # The floor of a log that has been relayed for long.
        cursor = replace(reading.cursor, floor=20)
        reader.release_shard(relay, reader.save(relay, shard, cursor, lease_s=60))
    execute(engine, SET_BACK_POSITIONS.format(next_value=11))
    append(engine, *(new := messages_of_keys(5)))

    with engine.begin() as connection:
        admin.rebase(connection)
    assert read_all(engine) == appended(new)


def test_a_relay_waits_for_the_sequence_and_loses_nothing(
    engine: Engine, relaying: Settings
) -> None:
    """It is not ready and names the command; without this, what lies below its floor is never read."""
    first = [a_message() for _ in range(10)]
    append(engine, *first)
    with a_relay(relaying):
        eventually(lambda: is_wholly_relayed(engine))
    execute(engine, SET_BACK_POSITIONS.format(next_value=1))
    append(engine, *(low := [a_message() for _ in range(5)]))
    with a_relay(relaying) as relay:
        eventually(lambda: "`outbox rebase`" in relay.health.problems.get("database", ""))
        assert relay.health.is_live
        with engine.begin() as connection:
            admin.rebase(connection)
        records = published(relaying, [*first, *low])
        eventually(lambda: is_wholly_relayed(engine) and not relay.health.problems)
    assert first_deliveries(records) == appended([*first, *low])
    assert len(ids(records)) == len(first) + len(low)
