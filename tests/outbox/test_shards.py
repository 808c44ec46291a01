"""Shards: claimed by one at a time, shared fairly, reserved, split and merged; seen from the database."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from outbox import admin, reader
from outbox.admin import HandoverTaken, NotNeighbours
from outbox.reader import ALL_KEYS, LeaseLost, NoSuchShard, Shard
from outbox.reader.membership import share_of
from tests.support.relays import append, messages_of_keys
from tests.support.waiting import eventually

RUN_OUT = text("""
    WITH dead AS (UPDATE outbox.relay SET seen_until = to_timestamp(0) WHERE name = :name)
    UPDATE outbox.shard SET leased_until = to_timestamp(0) WHERE owner = :name
""")
LOCK_RELAY = text("SELECT name FROM outbox.relay WHERE name = :name FOR UPDATE NOWAIT")
WAITING = text("""
    SELECT EXISTS (SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock')
""")


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A relay's: in autocommit, and prepared."""
    direct = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with direct.connect() as connection:
        reader.prepare_session(connection)
        yield connection


def claimed(connection: Connection, owner: str = "a relay", shard_id: int | None = None) -> Shard:
    shard = reader.claim(connection, owner, lease_s=60, shard_id=shard_id)
    assert shard is not None
    return shard


def split(connection: Connection, into: int) -> list[Shard]:
    """Split the only shard there is."""
    return admin.split(connection, claimed(connection), into)


def claimed_all(connection: Connection, owner: str = "a relay") -> list[Shard]:
    """Every shard, in the order of their hashes."""
    return [claimed(connection, owner, shard.id) for shard in reader.shards(connection)]


def a_place(connection: Connection, shard: Shard, *, limit: int) -> Shard:
    """The shard as it is once a reading is published."""
    reading = reader.read(connection, shard.cursor, shard.hashes, limit=limit)
    return reader.save(connection, shard, reading.cursor, lease_s=60)


# Sharing.


@pytest.mark.unit
@given(shards=st.integers(0, 200), relays=st.integers(1, 50))
def test_shares_sum_up_to_the_shards_and_differ_by_one_at_most(shards: int, relays: int) -> None:
    shares = [share_of(shards, relays, before) for before in range(relays)]
    assert sum(shares) == shards
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True), "who has most keeps most"


@dataclass
class Crew:
    """Relays without threads, that do what their beats tell them."""

    connection: Connection
    held: dict[str, dict[int, int]] = field(default_factory=dict)

    def beat(self, name: str) -> bool:
        """One beat of one relay; returns whether it took or gave anything."""
        held = self.held[name]
        standing = reader.heartbeat(self.connection, name, held, lease_s=60)
        ours = {each.id: each for each in reader.shards(self.connection) if each.owner == name}
        gone = held.keys() - standing.kept
        for id_ in gone:
            del held[id_]
        surplus = (
            list(standing.wanted)
            + [id_ for id_ in held if id_ not in standing.wanted][standing.share :]
        )
        for id_ in surplus:
            reader.release_shard(self.connection, ours[id_])
            del held[id_]
        taken = 0
        while len(held) < standing.share and (
            shard := reader.claim(self.connection, name, lease_s=60, holding=held)
        ):
            held[shard.id], taken = shard.epoch, taken + 1
        return bool(gone or surplus or taken)

    def settle(self, random: Random) -> None:
        """Beat in any order until nothing moves any more, which must come soon and last."""
        moves = [
            [self.beat(name) for name in random.sample(sorted(self.held), len(self.held))]
            for _ in range(8)
        ]
        assert not any(map(any, moves[-4:])), "the shards go on moving"

    def assert_fair(self) -> None:
        shards = reader.shards(self.connection)
        has = Counter(shard.owner for shard in shards)
        counts = [has[name] for name in self.held]
        assert sum(counts) == len(shards), "each shard has a relay that is alive"
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_fair_and_still_whoever_comes_goes_dies_or_changes_the_shards(
    connection: Connection, seed: int
) -> None:
    """A relay that has what it should have gives nothing away but what is asked of it."""
    random, crew = Random(seed), Crew(connection, {"relay-0": {}})
    crew.settle(random)
    for number in range(1, 15):
        happening = random.choice(["join", "join", "leave", "die", "split", "split"])
        name = random.choice(sorted(crew.held))
        if happening == "join":
            crew.held[f"relay-{number}"] = {}
        elif happening == "split":
            shard = random.choice(reader.shards(connection))
            admin.split(connection, shard, random.choice([2, 3]))
        elif len(crew.held) > 1:
            held = crew.held.pop(name)
            if happening == "leave":
                for shard in reader.shards(connection):
                    if shard.id in held:
                        reader.release_shard(connection, shard)
                reader.leave(connection, name)
            else:
                connection.execute(RUN_OUT, {"name": name})
        crew.settle(random)
        crew.assert_fair()


@pytest.mark.parametrize("name", ["a", "z"])
def test_who_has_what_does_not_divide_keeps_it(connection: Connection, name: str) -> None:
    """Whatever the relays' names are; where nobody has more than another, these decide."""
    split(connection, into=3)
    held = {shard.id: shard.epoch for shard in claimed_all(connection, name)[:2]}
    reader.heartbeat(connection, "m", {}, lease_s=60)
    assert reader.heartbeat(connection, name, held, lease_s=60).share == 2
    assert reader.heartbeat(connection, "m", {}, lease_s=60).share == 1


def test_a_relay_that_is_not_able_to_claim_keeps_what_it_has_and_others_take_the_rest(
    connection: Connection,
) -> None:
    split(connection, into=3)
    first = claimed(connection, "hanging")
    assert reader.heartbeat(connection, "other", {}, lease_s=60).share == 3

    def beat_of_hanging(*, is_able: bool) -> reader.Assignment:
        epochs = {first.id: first.epoch}
        return reader.heartbeat(connection, "hanging", epochs, lease_s=60, is_able=is_able)

    assert beat_of_hanging(is_able=True).kept == {first.id}
    shared = reader.heartbeat(connection, "other", {}, lease_s=60).share
    assert beat_of_hanging(is_able=False).kept == {first.id}
    assert shared < reader.heartbeat(connection, "other", {}, lease_s=60).share == 3


def test_a_beat_keeps_only_what_is_still_the_relays(connection: Connection) -> None:
    """One shard was taken over, one was replaced; the lease of neither is prolonged."""
    split(connection, into=3)
    lost, replaced, kept = claimed_all(connection, "one")
    admin.split(connection, replaced)
    connection.execute(RUN_OUT, {"name": "one"})
    claimed(connection, "another", lost.id)

    epochs = {shard.id: shard.epoch for shard in (lost, replaced, kept)}
    assert reader.heartbeat(connection, "one", epochs, lease_s=60).kept == {kept.id}
    owners = {shard.id: shard.owner for shard in reader.shards(connection)}
    assert owners[lost.id] == "another"


def test_relays_that_come_back_all_at_once_do_not_wait_for_each_other(
    connection: Connection, engine: Engine
) -> None:
    """After an outage each finds that the others are to be forgotten.

    Who still waits for its own row must not have locked another's.
    """
    for name in ("one", "another"):
        reader.heartbeat(connection, name, {}, lease_s=60)
    connection.execute(RUN_OUT, {"name": "another"})
    direct = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with direct.connect() as beating, ThreadPoolExecutor() as pool, engine.connect() as locking:
        locking.execute(LOCK_RELAY, {"name": "one"})
        standing = pool.submit(reader.heartbeat, beating, "one", {}, lease_s=60)
        eventually(lambda: connection.execute(WAITING).scalar_one())
        assert connection.execute(LOCK_RELAY, {"name": "another"}).scalar_one() == "another"
        locking.rollback()
        assert standing.result().share == 1


# Reserving.


def test_a_reserved_shard_is_for_one_alone_and_its_owner_is_told(connection: Connection) -> None:
    shard = claimed(connection, "owner")
    admin.request_handover(connection, shard.id, "heir", for_s=60)
    assert reader.heartbeat(connection, "owner", {shard.id: shard.epoch}, lease_s=60).wanted == {
        shard.id
    }
    assert reader.claim(connection, "heir", lease_s=60) is None, "not before it is handed over"
    reader.release_shard(connection, shard)
    assert reader.claim(connection, "owner", lease_s=60) is None
    assert reader.heartbeat(connection, "owner", {}, lease_s=60).free == 0
    assert claimed(connection, "heir").epoch == shard.epoch + 1


def test_a_reservation_can_be_prolonged_by_whom_it_is_for_and_runs_out_by_itself(
    connection: Connection,
) -> None:
    """As where the command that made it has died."""
    (shard,) = reader.shards(connection)
    admin.request_handover(connection, shard.id, "one", for_s=60)
    with pytest.raises(HandoverTaken, match="one"):
        admin.request_handover(connection, shard.id, "another", for_s=60)
    assert reader.claim(connection, "another", lease_s=60) is None

    admin.request_handover(connection, shard.id, "one", for_s=0)
    (shard,) = reader.shards(connection)
    assert shard.reserved_for is None
    assert reader.claim(connection, "another", lease_s=60)


def test_a_reservation_that_is_withdrawn_is_gone_unless_it_is_anothers(
    connection: Connection,
) -> None:
    (shard,) = reader.shards(connection)
    admin.request_handover(connection, shard.id, "one", for_s=60)
    admin.cancel_handover(connection, shard.id, "another")
    assert reader.shards(connection)[0].reserved_for == "one"
    admin.cancel_handover(connection, shard.id, "one")
    assert reader.claim(connection, "another", lease_s=60)


def test_what_does_not_exist_cannot_be_reserved(connection: Connection) -> None:
    with pytest.raises(NoSuchShard):
        admin.request_handover(connection, 99, "one", for_s=60)


# Splitting and merging.


@pytest.mark.parametrize("into", [2, 3, 64])
def test_the_parts_of_a_split_cover_the_whole_and_stand_where_it_stood(
    connection: Connection, engine: Engine, into: int
) -> None:
    """In the midst of a backlog, too; nobody has them yet, and no id is used again."""
    append(engine, *messages_of_keys(20))
    shard = a_place(connection, claimed(connection), limit=7)
    assert shard.cursor.batch_snapshot

    parts = admin.split(connection, shard, into)
    assert parts == reader.shards(connection)
    ends = [part.hashes.hash_from for part in parts] + [parts[-1].hashes.hash_to]
    assert (ends[0], ends[-1]) == (ALL_KEYS.hash_from, ALL_KEYS.hash_to)
    assert [part.hashes.hash_to for part in parts] == ends[1:]
    widths = {part.hashes.hash_to - part.hashes.hash_from for part in parts}
    assert max(widths) - min(widths) <= 1
    assert {part.cursor for part in parts} == {shard.cursor}
    assert {part.owner for part in parts} == {None}
    assert shard.id not in {part.id for part in parts}


def test_the_parts_of_a_split_have_what_the_whole_had_left(
    connection: Connection, engine: Engine
) -> None:
    append(engine, *messages_of_keys(50, keys=20))
    shard = a_place(connection, claimed(connection), limit=7)
    rest = reader.read(connection, shard.cursor, shard.hashes, limit=100)
    parts = [
        reader.read(connection, part.cursor, part.hashes, limit=100)
        for part in admin.split(connection, shard, 4)
    ]
    assert all(part.rows for part in parts)
    assert sorted(row for part in parts for row in part.rows) == sorted(rest.rows)


def test_a_shard_of_too_few_hashes_is_not_split(connection: Connection) -> None:
    shard = claimed(connection)
    with pytest.raises(ValueError, match="cannot be split"):
        admin.split(connection, shard, into=2**32 + 1)


def test_neighbours_at_one_place_become_one_and_have_nothing_left_behind(
    connection: Connection, engine: Engine
) -> None:
    append(engine, *messages_of_keys(5))
    split(connection, into=2)
    left, right = claimed_all(connection)
    cursor = reader.read(connection, left.cursor, ALL_KEYS, limit=100).cursor
    left, right = (reader.save(connection, shard, cursor, lease_s=60) for shard in (left, right))
    merged = admin.merge(connection, left, right)
    assert [merged] == reader.shards(connection)
    assert merged.hashes == ALL_KEYS
    assert merged.cursor == cursor
    assert merged.owner is None
    assert merged.id not in {left.id, right.id}


def test_shards_that_do_not_touch_or_stand_apart_are_not_merged(
    connection: Connection, engine: Engine
) -> None:
    split(connection, into=3)
    left, middle, right = claimed_all(connection)
    with pytest.raises(NotNeighbours):
        admin.merge(connection, left, right)
    with pytest.raises(NotNeighbours):
        admin.merge(connection, middle, left)

    append(engine, *messages_of_keys(20))
    in_parts = a_place(connection, left, limit=1)
    with pytest.raises(NotNeighbours):
        admin.merge(connection, in_parts, middle)
    further = a_place(connection, middle, limit=100)
    with pytest.raises(NotNeighbours):
        admin.merge(connection, further, right)
    assert len(reader.shards(connection)) == 3


def test_who_has_lost_its_lease_changes_nothing(connection: Connection, engine: Engine) -> None:
    """Neither to another owner nor to a change of the shards."""
    lost = claimed(connection, "one")
    connection.execute(RUN_OUT, {"name": "one"})
    taken = claimed(connection, "another")
    assert_powerless(engine, lost)

    admin.split(connection, taken)
    assert_powerless(engine, taken)
    left, right = claimed_all(connection)
    admin.merge(connection, left, right)
    assert_powerless(engine, left)
    assert_powerless(engine, right)


def test_a_merge_without_one_of_the_leases_leaves_both(
    connection: Connection, engine: Engine
) -> None:
    split(connection, into=2)
    left, right = claimed_all(connection, "one")
    connection.execute(RUN_OUT, {"name": "one"})
    claimed(connection, "another", right.id)
    with pytest.raises(LeaseLost), engine.begin() as transaction:
        admin.merge(transaction, left, right)
    assert {shard.id for shard in reader.shards(connection)} == {left.id, right.id}


def assert_powerless(engine: Engine, lost: Shard) -> None:
    with engine.connect() as connection:
        before = reader.shards(connection)
        for write in (
            lambda: reader.save(connection, lost, lost.cursor, lease_s=60),
            lambda: reader.renew(connection, lost, lease_s=60),
            lambda: reader.release_shard(connection, lost),
            lambda: admin.split(connection, lost),
            lambda: reader.mark_in_flight(connection, lost, 1),
        ):
            with pytest.raises(LeaseLost):
                write()
        connection.rollback()
        assert reader.shards(connection) == before
