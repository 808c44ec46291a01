"""A dump restored into another cluster: its cursors mean nothing there, and no message is lost."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

import outbox
from domain.messages import ROOM_RESERVE
from innbox_process.database import direct_engine
from ops import local
from ops.environment import as_environment
from ops.local import Servers
from ops.local.postgres import BINARIES
from ops.migrate import migrate
from ops.relay_config import relay_config
from ops.topics import declare
from outbox import Message, admin, reader
from outbox.admin import PartitionChanges, StillRelayed, TransactionIdsRestarted
from outbox.reader import ALL_KEYS, ForeignCursor
from relay.housekeeping import maintain_partitions_once
from runtime.settings import Role, Settings
from tests.conftest import _database
from tests.support.api_client import some_settings
from tests.support.commands import innbox
from tests.support.kafka_reader import ids
from tests.support.relays import (
    a_message,
    a_relay,
    append,
    appended,
    autocommit,
    first_deliveries,
    ids_of,
    is_wholly_relayed,
    messages_of_keys,
    published,
    read_all,
    the_shard,
)
from tests.support.waiting import eventually

_numbers = count(1)

# More than the young cluster of these tests ever gives out.
AGE = text("""
    DO $$ BEGIN FOR n IN 1..10000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$
""")
CLAIM_TO_BE_NATIVE = text("""
    UPDATE outbox.shard SET system_identifier = (pg_control_system()).system_identifier
""")
XIDS_SHOWN = text("""
    SELECT count(*) FROM outbox.message JOIN outbox.shard ON pg_visible_in_snapshot(xid, snapshot)
    WHERE message_id = ANY (CAST(:ids AS uuid[]))
""")


@pytest.fixture(scope="module")
def young(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A second cluster, whose transaction ids have just begun."""
    folder = tmp_path_factory.mktemp("young")
    parts: tuple[local.Part, ...] = ("postgres",)
    with local.running(folder, durable=False, parts=parts) as servers:
        yield servers


@dataclass
class History:
    """What was appended to an outbox, and what of it its relay has published."""

    published: list[Message] = field(default_factory=list)
    unpublished: list[Message] = field(default_factory=list)


@pytest.fixture
def history(engine: Engine) -> History:
    """A relay's work, interrupted: a backlog in parts, late committers, a blocked key."""
    age(engine)
    return a_history(engine)


@pytest.fixture
def restored(
    history: History,  # noqa: ARG001 - what is in the dump
    engine: Engine,
    young: Servers,
    tmp_path: Path,
) -> Iterator[Engine]:
    """The same outbox, from a dump, in the young cluster."""
    with restored_in(young, engine, tmp_path) as found:
        yield found


def test_all_that_is_unpublished_is_read_after_a_rebase_and_nothing_else(
    history: History, restored: Engine
) -> None:
    """Also what was written before the rebase, whose transaction ids the old cursor has seen."""
    native = messages_of_keys(10)
    append(restored, *native)
    with restored.begin() as connection:
        assert connection.execute(XIDS_SHOWN, {"ids": ids_of(native)}).scalar_one() == len(native)

    with pytest.raises(ForeignCursor, match="`outbox rebase`"):
        check(restored)
    assert rebased(restored)
    check(restored)

    wanted = [*history.unpublished, *native]
    assert read_all(restored) == appended(wanted)
    assert blocked(restored) == []
    later = messages_of_keys(5)
    append(restored, *later)
    assert read_all(restored) == appended([*wanted, *later])


def test_a_relay_refuses_until_the_rebase_and_goes_on_by_itself(
    history: History, restored: Engine, settings: Settings
) -> None:
    """Nothing comes twice, each key is in order, and what was native is published, too."""
    url = restored.url.render_as_string(hide_password=False)
    settings = settings.model_copy(update={"database_url": url})
    native = messages_of_keys(10)
    append(restored, *native)
    wanted = [*history.unpublished, *native]
    with a_relay(settings) as relay:
        eventually(lambda: "`outbox rebase`" in relay.health.problems.get("database", ""))
        assert relay.health.is_live

        assert rebased(restored)
        records = published(settings, wanted)
        eventually(lambda: is_wholly_relayed(restored) and not relay.health.problems)
    assert first_deliveries(records) == appended(wanted)
    assert len(ids(records)) == len(wanted)


def test_a_rebase_counts_what_it_finds_and_is_done_once(history: History, restored: Engine) -> None:
    append(restored, *(native := messages_of_keys(3)))
    with restored.begin() as connection:
        outlook = admin.plan_rebase(connection)
    assert outlook.published == {ROOM_RESERVE: len(history.published)}
    assert outlook.unpublished == {ROOM_RESERVE: len(history.unpublished) + len(native)}
    assert not outlook.ids_go_on

    before = the_shard(restored)
    assert rebased(restored) == len(history.published) + len(history.unpublished)
    assert rebased(restored) is None
    after = the_shard(restored)
    assert (after.epoch, after.cursor.number) == (before.epoch + 1, before.cursor.number + 1)


def test_each_shard_says_what_of_its_own_keys_is_published(
    history: History, engine: Engine, young: Servers, tmp_path: Path
) -> None:
    with autocommit(engine) as relay:
        reader.prepare_session(relay)
        shard = reader.claim(relay, "a relay", lease_s=60)
        assert shard is not None
        _, right = admin.split(relay, shard)
        further = reader.claim(relay, "a relay", lease_s=60, shard_id=right.id)
        assert further is not None
        reading = reader.read(relay, further.cursor, further.hashes, limit=1_000)
        reader.release_shard(relay, reader.save(relay, further, reading.cursor, lease_s=60))
    relayed = {reader.decode_headers(row[4])["ce_id"] for row in reading.rows}
    left_over = [each for each in history.unpublished if str(each.message_id) not in relayed]
    assert 0 < len(left_over) < len(history.unpublished)
    with restored_in(young, engine, tmp_path) as restored:
        assert rebased(restored)
        assert read_all(restored) == appended(left_over)


def test_where_transaction_ids_go_on_the_cursors_stay(
    young: Servers, engine: Engine, servers: Servers, tmp_path: Path
) -> None:
    """From a young cluster to an older one, as with pg_upgrade; no message is rewritten."""
    age(engine)
    native = messages_of_keys(10)
    with migrated_in(young) as source:
        history = a_history(source)
        with restored_in(servers, source, tmp_path) as target:
            append(target, *native)
            with pytest.raises(ForeignCursor):
                check(target)
            before = the_shard(target).cursor
            assert rebased(target, same_transaction_ids=True) == 0
            check(target)
            assert the_shard(target).cursor == before
            assert blocked(target) == ["blocked"]
            found = read_all(target)
    # What a blocked key holds back, its own cursor holds back as before.
    free = [message for message in history.unpublished if message.key != "blocked"]
    assert found == appended([*free, *native])


def test_cursors_are_not_kept_where_transaction_ids_begin_anew(restored: Engine) -> None:
    before = the_shard(restored)
    with pytest.raises(TransactionIdsRestarted):
        rebased(restored, same_transaction_ids=True)
    assert the_shard(restored) == before


def test_a_cursor_from_the_future_is_from_elsewhere_whatever_it_says_of_itself(
    history: History, restored: Engine
) -> None:
    """As in a copy of a cluster, which has its identifier, after transactions of its own."""
    with restored.begin() as connection:
        connection.execute(CLAIM_TO_BE_NATIVE)
    with pytest.raises(ForeignCursor, match="has seen transactions"):
        check(restored)
    assert rebased(restored)
    assert read_all(restored) == appended(history.unpublished)


def test_whoever_may_read_the_shards_may_ask_where_they_come_from(engine: Engine) -> None:
    append(engine, *messages_of_keys(5))
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE pg_read_all_data"))
        reader.check_cluster_identity(connection)


def test_a_cursor_that_was_saved_here_is_native_whoever_else_writes(engine: Engine) -> None:
    """An open transaction, ids given out meanwhile, a split: none makes a cursor look foreign."""
    with engine.connect() as open_writer:
        outbox.append(open_writer, messages_of_keys(1))
        a_history(engine)
        check(engine)
        with engine.begin() as connection:
            shard = reader.claim(connection, "a relay", lease_s=60)
            assert shard is not None
            admin.split(connection, shard)
            reader.check_cluster_identity(connection)
        check(engine)


def test_a_rebase_is_refused_while_a_lease_is_live(restored: Engine) -> None:
    with restored.begin() as connection:
        assert reader.claim(connection, "a relay of old", lease_s=60)
    with pytest.raises(StillRelayed, match="a relay of old"):
        rebased(restored)


def test_a_rebase_waits_for_writers_no_longer_than_it_says(
    history: History, restored: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try sees what they have written."""
    monkeypatch.setattr(import_module("outbox.admin.rebase"), "LOCK_TIMEOUT_MS", 50)
    native = messages_of_keys(3)
    with restored.connect() as writer:
        outbox.append(writer, native)
        with pytest.raises(OperationalError, match="lock timeout"):
            rebased(restored)
        writer.commit()
    assert rebased(restored)
    assert read_all(restored) == appended([*history.unpublished, *native])


def test_housekeeping_touches_nothing_until_the_rebase(
    history: History, restored: Engine, settings: Settings
) -> None:
    """A native message that it moved would look as if it were restored, and be lost."""
    url = restored.url.render_as_string(hide_password=False)
    house = direct_engine(settings, url, "relay", "innbox_relay")
    native = messages_of_keys(3)
    append(restored, *native)
    assert maintain_partitions_once(house, relay_config(settings)) == PartitionChanges([], [])
    assert partitions(restored) == 0

    assert rebased(restored)
    maintain_partitions_once(house, relay_config(settings))
    assert partitions(restored) > 0
    assert read_all(restored) == appended([*history.unpublished, *native])


def test_the_command_says_what_it_finds_does_it_and_has_nothing_more_to_do(
    history: History, restored: Engine, settings: Settings, tmp_path: Path
) -> None:
    url = restored.url.render_as_string(hide_password=False)
    environment = as_environment(settings) | {"DATABASE_URL": url}
    environment |= {"RESERVATIONS_DATABASE_URL": "", "ROOMS_DATABASE_URL": ""}

    def run_rebase(*options: str) -> subprocess.CompletedProcess[str]:
        return innbox("outbox", "rebase", *options, data=tmp_path, environment=environment)

    (found,) = json.loads(run_rebase("--dry-run", "--json").stdout)["databases"]
    assert found["unpublished"] == {ROOM_RESERVE: len(history.unpublished)}
    refused = run_rebase()
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    refused = run_rebase("--yes", "--same-transaction-ids")
    assert (refused.returncode, "pg_upgrade" in refused.stderr) == (2, True)
    with pytest.raises(ForeignCursor):
        check(restored)

    done = run_rebase("--yes")
    assert (done.returncode, "VACUUM" in done.stderr) == (0, True)
    again = run_rebase("--yes")
    assert (again.returncode, "nothing to do" in again.stderr) == (0, True)
    assert read_all(restored) == appended(history.unpublished)


def a_history(engine: Engine) -> History:
    """Relay by hand, with each thing that a cursor can say of what is published."""
    past = History()
    early, late = a_message("early"), a_message("late")
    first, refused = [*messages_of_keys(10), a_message("blocked")], a_message("blocked")
    behind, backlog, rest = a_message("blocked"), messages_of_keys(20), messages_of_keys(4)
    with engine.connect() as one, engine.connect() as two, autocommit(engine) as relay:
        outbox.append(one, [early])
        outbox.append(two, [late])
        reader.prepare_session(relay)
        shard = reader.claim(relay, "a relay", lease_s=60)
        assert shard is not None

        append(engine, *first)
        shard = reader.save(
            relay, shard, reader.read(relay, shard.cursor, ALL_KEYS, limit=100).cursor, lease_s=60
        )
        append(engine, refused, behind)
        reading = reader.read(relay, shard.cursor, ALL_KEYS, limit=1)
        reader.block_key(relay, shard, reading.cursor, reading.rows[0][0], "too large")
        shard = reader.save(
            relay, shard, reader.read(relay, shard.cursor, ALL_KEYS, limit=100).cursor, lease_s=60
        )
        one.commit()
        append(engine, *backlog)
        shard = reader.save(
            relay, shard, reader.read(relay, shard.cursor, ALL_KEYS, limit=8).cursor, lease_s=60
        )
        two.commit()
        append(engine, *rest)
        reader.release_shard(relay, shard)
    past.published = [*first, early, *backlog[:7]]
    past.unpublished = [late, refused, behind, *backlog[7:], *rest]
    return past


@contextmanager
def migrated_in(servers: Servers) -> Iterator[Engine]:
    """A new database of a cluster, with an outbox of its own."""
    with _database(servers, f"migrated_{next(_numbers)}") as url:
        migrate(url)
        declare(some_settings(url))
        yield create_engine(url, poolclass=NullPool)


@contextmanager
def restored_in(servers: Servers, source: Engine, folder: Path) -> Iterator[Engine]:
    """A new database of a cluster, restored from a dump of another one."""
    dump = str(folder / "dump")
    run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={libpq(source.url)}")
    with _database(servers, f"restored_{next(_numbers)}") as url:
        target = create_engine(url, poolclass=NullPool)
        make_roles(target)
        run("pg_restore", "--exit-on-error", f"--dbname={libpq(target.url)}", dump)
        yield target


def make_roles(target: Engine) -> None:
    """Roles are the cluster's and in no dump; a dump grants them what they had."""
    with target.begin() as connection:
        there = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
        for role in set(get_args(Role)) - there:
            connection.execute(text(f"CREATE ROLE {role}"))


def run(program: str, *arguments: str) -> None:
    done = subprocess.run([BINARIES / program, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def age(engine: Engine) -> None:
    """Give out transaction ids."""
    with autocommit(engine) as connection:
        connection.execute(AGE)


def check(engine: Engine) -> None:
    with engine.begin() as connection:
        reader.check_cluster_identity(connection)


def rebased(engine: Engine, *, same_transaction_ids: bool = False) -> int | None:
    with engine.begin() as connection:
        return admin.rebase(connection, same_transaction_ids=same_transaction_ids)


def blocked(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [found.key for found in reader.blocked_keys(connection)]


def partitions(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(admin.partitions(connection))
