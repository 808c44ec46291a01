"""`innbox outbox audit`: it finds what is missing, repeated or out of order, and nothing else.

Each test breaks one promise on purpose, past the relay: with a producer of its own and by hand in SQL.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text

import outbox
import outbox.admin
from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE
from innbox_process.commands import CommandError
from ops.cli import cli
from ops.environment import as_environment
from ops.relay_config import audit_sources
from ops.topics import create_topics
from outbox import Message, reader
from relay.audit import TopicAudit, Window, audit
from relay.audit import databases as audit_databases
from relay.audit.order import COMMIT_S_MAX, Delivered, judge
from relay.audit.partitioner import partition_of
from runtime.settings import Settings
from tests.support.audited import System, lose, named, of
from tests.support.commands import innbox
from tests.support.relays import a_message, a_relay, ids_of, is_wholly_relayed
from tests.support.waiting import eventually


@pytest.fixture
def system(engine: Engine, settings: Settings) -> System:
    return System(engine, settings)


# --- What is right


def test_what_is_published_once_and_in_order_is_all_well(system: System) -> None:
    system.append(*(a_message(key=f"{number % 3}") for number in range(10)))
    system.append(a_message(topic=ROOM_CANCEL))
    system.relay()

    found = system.audit(exactly_once=True)

    assert found.holds
    assert found.notes == []
    assert of(found) == TopicAudit(ROOM_RESERVE, committed=10, published=10)
    assert of(found, ROOM_CANCEL) == TopicAudit(ROOM_CANCEL, committed=1, published=1)
    assert of(found, RESERVATION_RESULT) == TopicAudit(RESERVATION_RESULT)


def test_what_waits_for_its_relay_is_not_missing(system: System) -> None:
    system.append(waiting := a_message())

    found = system.audit()

    assert found.holds
    assert named(of(found), "waiting") == ids_of([waiting])
    assert (of(found).committed, of(found).published, of(found).missing) == (1, 0, 0)


def test_a_backlog_in_parts_is_published_up_to_its_position(system: System) -> None:
    system.append(*(messages := [a_message() for _ in range(4)]))
    system.relay(limit=1)
    system.relay(lose, limit=1)

    found = of(system.audit())

    assert (found.published, found.waiting) == (1, 2)
    assert named(found, "missing") == ids_of(messages[1:2])


def test_what_a_blocked_key_holds_back_is_not_missing_nor_is_what_is_skipped(
    system: System,
) -> None:
    """Whatever the cursor of the shard says; other keys are held to it as ever."""
    refused, behind, lost = a_message("7"), a_message("7"), a_message("8")
    system.append(refused, behind)
    with system.owning() as (connection, shard):
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
        position = reading.rows[0][0]
        reader.block_key(connection, shard, reading.cursor, position, "too large")
    system.append(lost)
    system.relay(lose)

    found = system.audit()
    assert not found.holds
    assert named(of(found), "blocked") == ids_of([refused, behind])
    assert named(of(found), "missing") == ids_of([lost])

    with system.engine.begin() as connection:
        outbox.admin.skip_message(connection, "7", skipped_by="a test")
    found = system.audit()
    assert named(of(found), "skipped") == ids_of([refused])
    assert named(of(found), "blocked") == ids_of([behind])
    assert named(of(found), "missing") == ids_of([lost])


def test_a_skipped_message_that_is_replayed_later_has_overtaken_nobody(system: System) -> None:
    system.append(refused := a_message(), a_message())
    with system.owning() as (connection, shard):
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
        reader.block_key(connection, shard, reading.cursor, reading.rows[0][0], "too large")
    with system.engine.begin() as connection:
        outbox.admin.skip_message(connection, refused.key, skipped_by="a test")
    system.relay(lambda rows: system.produce(rows[1:]))
    system.produce(reading.rows)

    found = system.audit()

    assert found.holds
    assert (of(found).published, of(found).skipped, of(found).out_of_order) == (2, 0, 0)


def test_a_live_system_raises_no_alarm(system: System) -> None:
    """Writers that share no lock, on few keys; the relay publishes, and is audited meanwhile."""
    done = Event()

    def write() -> None:
        while not done.is_set():
            system.append(a_message("0"), a_message("1"))

    with a_relay(system.settings), ThreadPoolExecutor(4) as writers:
        writing = [writers.submit(write) for _ in range(4)]
        try:
            audits = [system.audit(exactly_once=True) for _ in range(3)]
        finally:
            done.set()
        for one in writing:
            one.result()
        eventually(lambda: is_wholly_relayed(system.engine))

    for found in (*audits, at_rest := system.audit(exactly_once=True)):
        assert found.holds, found
        assert of(found).unknown == 0
    assert of(at_rest).published == of(at_rest).committed > of(audits[0]).committed


def test_what_lies_behind_an_open_transaction_of_another_producer_is_waited_for(
    system: System,
) -> None:
    """Readers of what is committed do not see beyond it, though it be acknowledged and relayed."""
    prefix = system.settings.kafka_prefix
    producer = Producer(system.settings.kafka | {"transactional.id": prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(prefix + ROOM_RESERVE, b"", "7", partition_of("7", 3))
    producer.flush(30)
    system.append(a_message())
    system.relay()
    reports = count(1)

    def report(what: str, _done: int, _total: int | None) -> None:
        """Commit once the reading stands before the transaction."""
        if what == "records" and next(reports) == 2:
            producer.commit_transaction(30)

    found = audit(audit_sources(system.settings), Window(), report)
    producer.close()
    assert of(found).published == 1


# --- Missing


def test_a_message_that_the_cursor_passed_unpublished_is_missing_with_its_id(
    system: System,
) -> None:
    system.append(a_message())
    system.relay()
    system.append(lost := a_message(key="8"))
    system.relay(lose)

    found = system.audit()

    assert not found.holds
    (entry,) = of(found).found["missing"]
    position = system.sql("SELECT max(position) FROM outbox.message")
    assert entry == {
        "message_id": str(lost.message_id),
        "key": "8",
        "database": "reservations and rooms",
        "position": position,
    }


def test_a_message_in_another_topic_than_its_own_is_missing(system: System) -> None:
    system.append(lost := a_message())
    system.relay(lambda rows: system.produce([(0, ROOM_CANCEL, *rows[0][2:])]))

    found = system.audit()

    assert named(of(found), "missing") == ids_of([lost])
    assert of(found, ROOM_CANCEL).unknown == 0


def test_a_message_without_an_id_for_consumers_cannot_be_traced(system: System) -> None:
    system.append(a_message())
    system.sql("UPDATE outbox.message SET headers = '{}'")
    system.relay()

    found = system.audit()

    assert found.holds
    assert of(found).untraceable == 1


def test_what_kafka_no_longer_keeps_is_expired_and_what_another_partition_lost_is_missing(
    system: System,
) -> None:
    """A partition that was emptied tells nothing of the others."""
    old, lost = a_message(key="7"), a_message(key="10")
    assert partition_of("7", 3) != partition_of("10", 3)
    system.append(old)
    system.relay()
    name = system.settings.kafka_prefix + ROOM_RESERVE
    emptied = TopicPartition(name, partition_of("7", 3), -1)
    admin = AdminClient(system.settings.kafka)
    for deleted in admin.delete_records([emptied]).values():
        deleted.result(30)
    system.append(lost)
    system.relay(lose)

    found = of(system.audit())

    assert named(found, "expired") == ids_of([old])
    assert named(found, "missing") == ids_of([lost])

    elsewhere = {"kafka_properties": {"partitioner": "consistent"}}
    unsure = System(system.engine, system.settings.model_copy(update=elsewhere)).audit()
    assert of(unsure).expired == 2


def test_keys_are_reckoned_to_the_partitions_that_they_are_in(system: System) -> None:
    keys = ["7", "ab", "abc", "abcd", "a longer key", "Zürich", "東京"]
    system.append(*(a_message(key=key) for key in keys))
    system.relay(lambda rows: system.produce([*rows, *rows]))

    found = of(system.audit()).found["duplicated"]

    reckoned = {key: partition_of(key, 3) for key in keys}
    assert {one["key"]: one["places"][0]["partition"] for one in found} == reckoned
    assert set(reckoned.values()) == {0, 1, 2}


# --- Duplicated


def test_a_record_that_is_there_twice_is_duplicated_and_a_failure_where_it_must_not_be(
    system: System,
) -> None:
    system.append(twice := a_message(), a_message())
    system.relay(lambda rows: system.produce([*rows, rows[0]]))

    found = system.audit()

    assert found.holds
    assert not system.audit(exactly_once=True).holds
    assert of(found).published == 2
    (entry,) = of(found).found["duplicated"]
    assert (entry["message_id"], entry["records"]) == (str(twice.message_id), 2)
    partition = partition_of("7", 3)
    assert entry["places"] == [{"partition": partition, "offset": offset} for offset in (0, 2)]


# --- Out of order


def test_messages_of_one_transaction_that_changed_places_are_out_of_order(system: System) -> None:
    system.append(first := a_message(), second := a_message())
    system.relay(system.produce_backwards)

    found = system.audit()

    assert not found.holds
    (entry,) = of(found).found["out_of_order"]
    assert entry["message_id"] == str(second.message_id)
    assert entry["overtaken_id"] == str(first.message_id)
    assert (entry["offset"], entry["overtaken_offset"]) == (0, 1)
    assert entry["reason"] == "of one transaction"


def test_order_is_of_first_deliveries_of_one_key_and_topic(system: System) -> None:
    """Repetitions come late and mean nothing, and keys and topics have no common order."""
    system.append(a_message("7"), a_message("8"), a_message("7", topic=ROOM_CANCEL))
    system.relay(lambda rows: system.produce([*reversed(rows), *rows]))

    found = system.audit()

    assert found.holds
    assert of(found).out_of_order == of(found).undecided == 0


@pytest.mark.usefixtures("commit_timestamps")
def test_a_message_that_overtook_what_was_committed_before_it_is_out_of_order(
    system: System,
) -> None:
    system.append(a_message())
    system.append(second := a_message())
    created_after_commit(system, second, seconds=COMMIT_S_MAX + 0.1)
    system.relay(system.produce_backwards)

    found = system.audit()

    assert not found.holds
    assert named(of(found), "out_of_order") == ids_of([second])
    assert of(found).found["out_of_order"][0]["reason"] == "committed before the append"


@pytest.mark.usefixtures("commit_timestamps")
def test_a_message_that_was_appended_just_after_the_commit_is_undecided(
    system: System,
) -> None:
    """A commit is seen a little after its time, and writers without a common lock may slip between."""
    system.append(a_message())
    system.append(second := a_message())
    created_after_commit(system, second, seconds=COMMIT_S_MAX / 2)
    system.relay(system.produce_backwards)

    found = system.audit()

    assert found.holds
    assert named(of(found), "undecided") == ids_of([second])
    assert "the clocks cannot tell" in " ".join(found.notes)


@pytest.mark.usefixtures("commit_timestamps")
def test_a_message_that_overtook_a_transaction_that_was_still_open_is_in_order(
    system: System,
) -> None:
    with system.engine.begin() as connection:
        outbox.append(connection, [slow := a_message()])
        system.append(quick := a_message())
        system.relay()
    system.relay()
    positions = "SELECT position FROM outbox.message WHERE message_id = :id"
    slow_at, quick_at = (system.sql(positions, id=one.message_id) for one in (slow, quick))
    assert slow_at < quick_at

    found = system.audit()

    assert found.holds
    assert of(found).undecided == 0
    assert found.notes == [
        "1 messages overtook one that was not yet committed: no order is promised"
    ]


def test_without_commit_timestamps_order_is_undecided_and_it_says_how_to_turn_them_on(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_databases, "HAS_COMMIT_TIMES", text("SELECT false"))
    system.append(a_message())
    system.append(second := a_message())
    system.relay(system.produce_backwards)

    found = system.audit()

    assert found.holds
    assert named(of(found), "undecided") == ids_of([second])
    assert "track_commit_timestamp = on" in " ".join(found.notes)


@pytest.mark.usefixtures("commit_timestamps")
@pytest.mark.parametrize("other", ["'3'", "(SELECT min(xid) FROM outbox.message)"])
def test_a_commit_timestamp_that_is_lost_or_another_transactions_leaves_it_undecided(
    system: System, other: str
) -> None:
    """Too old to be kept; or of the same id in this cluster, after a restore from another one."""
    system.append(a_message(topic=ROOM_CANCEL))
    system.append(old := a_message())
    system.append(second := a_message())
    created_after_commit(system, second, seconds=COMMIT_S_MAX + 0.1)
    system.relay(system.produce_backwards)
    system.sql(f"UPDATE outbox.message SET xid = {other} WHERE message_id = :id", id=old.message_id)

    found = system.audit()

    assert found.holds
    assert of(found).found["undecided"][0]["reason"] == "no commit timestamp"


def test_a_key_in_two_partitions_has_no_order_between_them(system: System) -> None:
    """As after partitions were added to a topic; nor is a repetition there a first delivery."""
    system.append(a_message(), a_message())
    stranger = (0, ROOM_RESERVE, "7", b"", "{}")

    def publish(rows: Sequence[Any]) -> None:
        first, second = rows
        system.produce([second], 0)
        system.produce([stranger, first], 1)
        system.produce([first], 0)

    system.relay(publish)

    found = system.audit()

    assert found.holds
    assert found.notes == ["1 keys are in more than one partition, between which there is no order"]


A_COMMIT = st.one_of(st.none(), st.integers(0, 8).map(float))


@pytest.mark.unit
@given(st.data(), st.lists(st.tuples(A_COMMIT, st.integers(0, 8)), min_size=2, max_size=9))
def test_every_inversion_is_judged_by_all_that_it_overtook(
    data: st.DataObject, written: list[tuple[float | None, int]]
) -> None:
    """Against the definition, pair by pair; neighbours alone would not do."""
    offsets = data.draw(st.permutations(range(len(written))))
    xids = data.draw(st.lists(st.integers(3, 6), min_size=len(written), max_size=len(written)))
    stretch = [
        a_delivery(position, offset, xid, committed_at, float(appended_at), offsets[:position])
        for position, (offset, xid, (committed_at, appended_at)) in enumerate(
            zip(offsets, xids, written, strict=True)
        )
    ]

    judged = {row[6]: row[0] for row in judge(stretch)}

    by_definition = {one.position: expected(one, stretch) for one in stretch}
    assert judged == {at: outcome for at, outcome in by_definition.items() if outcome}


def a_delivery(
    position: int,
    offset: int,
    xid: int,
    committed_at: float | None,
    appended_at: float,
    before: Sequence[int],
) -> Delivered:
    where = (0, ROOM_RESERVE, "7", 0, position, offset, f"message {position}")
    highest_before = max(before, default=None)
    return Delivered(*where, xid, 0.0, appended_at, committed_at, highest_before, None)


def expected(one: Delivered, stretch: list[Delivered]) -> str | None:
    overtaken = [
        other for other in stretch if other.position < one.position and other.offset > one.offset
    ]
    commits = [-100.0 if other.committed_at is None else other.committed_at for other in overtaken]
    if not overtaken:
        return None
    if any(other.xid == one.xid for other in overtaken) or any(
        0 <= at <= one.appended_at - COMMIT_S_MAX for at in commits
    ):
        return "out_of_order"
    return "undecided" if min(commits) < one.appended_at else "overlapping"


def created_after_commit(system: System, second: Message, *, seconds: float) -> None:
    """Let a message's transaction begin so long after the first one's commit."""
    system.sql(
        """
        UPDATE outbox.message SET created_at = first.committed_at + make_interval(secs => :seconds)
        FROM (SELECT max(pg_xact_commit_timestamp(xid::xid)) AS committed_at
              FROM outbox.message WHERE message_id <> :id) AS first
        WHERE message_id = :id
        """,
        id=second.message_id,
        seconds=seconds,
    )


@pytest.fixture
def commit_timestamps(system: System) -> None:
    if system.sql("SHOW track_commit_timestamp") == "off":
        pytest.skip("this server does not track commit timestamps")


# --- Unknown


def test_a_record_of_ours_that_was_never_committed_is_unknown(system: System) -> None:
    system.append(a_message())
    system.relay()
    with system.engine.connect() as connection:  # rolled back
        outbox.append(connection, [ghost := a_message()])
        (row,) = connection.execute(
            text(
                "SELECT 0, topic, key, value, headers::text FROM outbox.message WHERE message_id = :id"
            ),
            {"id": ghost.message_id},
        )
    system.produce([row])
    system.produce([(0, ROOM_RESERVE, "7", b"", '{"ce_id": "1", "ce_source": "/elsewhere"}')])

    found = system.audit()

    assert found.holds
    (entry,) = of(found).found["unknown"]
    assert (entry["event_id"], entry["offset"]) == (str(ghost.message_id), 1)


def test_a_record_that_is_older_than_the_outbox_is_not_unknown(system: System) -> None:
    then = datetime.now(UTC) - timedelta(days=10)
    age(system, then)
    with system.engine.begin() as connection:
        outbox.admin.ensure_partitions(connection, then.date(), days_ahead=10)
        outbox.admin.retire_partitions(connection, datetime.now(UTC), retention_days=7)
    system.append(a_message())
    system.relay()

    found = of(system.audit())

    assert (found.committed, found.published, found.unknown) == (1, 1, 0)


def test_a_day_that_retention_kept_does_not_make_later_ones_complete(system: System) -> None:
    """An early day may be kept for what is not relayed, and a later one be dropped."""
    then = datetime.now(UTC) - timedelta(days=9)
    age(system, then)
    with system.engine.begin() as connection:
        outbox.admin.ensure_partitions(connection, then.date() - timedelta(days=1), days_ahead=10)
        connection.execute(text(f"DROP TABLE outbox.message_{then:%Y%m%d}"))
    system.append(a_message())
    system.relay()

    assert of(system.audit()).unknown == 0


def age(system: System, then: datetime) -> None:
    """Publish a message that was appended then."""
    system.append(a_message())
    system.sql(
        "UPDATE outbox.message SET created_at = CAST(:then AS timestamptz), headers ="
        " jsonb_set(headers::jsonb, '{ce_time}', to_jsonb(CAST(:then AS text)))::json",
        then=then.isoformat(),
    )
    system.relay()


# --- The window


def test_only_messages_of_the_window_are_judged(system: System) -> None:
    system.append(lost := a_message())
    system.relay(lose)
    system.sql("UPDATE outbox.message SET created_at = now() - interval '3 hours'")
    system.append(a_message())
    system.relay()
    now = datetime.now(UTC)

    recent = system.audit(Window(since=now - timedelta(hours=2)))
    assert recent.holds
    assert of(recent).committed == of(recent).published == 1

    early = system.audit(Window(until=now - timedelta(hours=2)))
    assert named(of(early), "missing") == ids_of([lost])
    assert of(early).committed == 1
    assert not system.audit().holds


def test_what_was_created_before_the_window_and_published_in_it_is_not_unknown(
    system: System,
) -> None:
    """Appended in the window, too, by a transaction that had begun long before."""
    system.append(a_message())
    system.sql("UPDATE outbox.message SET created_at = now() - interval '3 hours'")
    system.relay()

    found = of(system.audit(Window(since=datetime.now(UTC) - timedelta(hours=2))))

    assert (found.committed, found.unknown) == (0, 0)


def test_records_of_before_the_window_are_not_read(system: System) -> None:
    system.append(a_message())
    system.relay()
    read: list[int] = []

    def report(what: str, done: int, _total: int | None) -> None:
        if what == "records":
            read.append(done)

    audit(
        audit_sources(system.settings), Window(since=datetime.now(UTC) + timedelta(hours=2)), report
    )
    assert read[-1] == 0
    audit(audit_sources(system.settings), Window(since=datetime.now(UTC)), report)
    assert read[-1] == 1


def test_topics_can_be_chosen_and_one_that_nobody_declares_is_refused(system: System) -> None:
    system.append(a_message(), a_message(topic=ROOM_CANCEL))
    system.relay(lose)

    (found,) = system.audit(topics=[ROOM_CANCEL]).topics

    assert (found.topic, found.missing) == (ROOM_CANCEL, 1)
    with pytest.raises(CommandError, match=r"nowhere.*room-cancel"):
        system.audit(topics=["nowhere"])


# --- Several databases


def test_two_databases_are_audited_together_or_one_alone(
    engine: Engine, settings: Settings, second_database_url: str
) -> None:
    """Their positions have nothing to do with each other, even for one key of one topic."""
    apart = settings.model_copy(update={"rooms_database_url": second_database_url})
    create_topics(apart)
    other = create_engine(second_database_url)
    reservations, rooms = System(engine, apart), System(other, apart)
    reservations.append(a_message(), a_message())
    rooms.append(a_message(), a_message())
    rooms.relay()
    reservations.relay()
    rooms.append(lost := a_message())
    rooms.relay(lose)
    other.dispose()

    found = reservations.audit()
    assert (of(found).committed, of(found).published) == (5, 4)
    assert found.notes == []
    (entry,) = of(found).found["missing"]
    assert (entry["message_id"], entry["database"]) == (str(lost.message_id), "rooms")

    alone = reservations.audit(context="reservations")
    assert alone.holds
    assert (of(alone).committed, of(alone).unknown) == (2, 0)


def test_cursors_of_another_cluster_are_refused(system: System) -> None:
    system.sql("UPDATE outbox.shard SET system_identifier = 1")

    with pytest.raises(CommandError, match="rebase"):
        system.audit()


# --- The command


def test_the_command_names_a_bounded_number_and_fails_if_anything_is_missing(
    tmp_path: Path, system: System
) -> None:
    environment = as_environment(system.settings)
    system.append(*(a_message() for _ in range(12)))
    system.relay(lose)

    told = innbox("outbox", "audit", data=tmp_path, environment=environment)
    assert told.returncode == 1
    assert told.stdout.count("missing: message ") == 10
    assert "missing: and 2 more; see --all" in told.stdout

    command = ("outbox", "audit", "--since", "2h", "--all", "--json")
    told = innbox(*command, data=tmp_path, environment=environment)
    assert told.returncode == 1
    found = json.loads(told.stdout)
    assert list(found) == ["holds", "since", "until", "exactly_once", "topics", "notes"]
    assert datetime.fromisoformat(found["since"]) < datetime.now(UTC)
    (topic,) = (one for one in found["topics"] if one["topic"] == ROOM_RESERVE)
    assert (topic["committed"], topic["missing"], topic["out_of_order"]) == (12, 12, 0)
    assert len(topic["found"]["missing"]) == 12


def test_the_command_says_that_all_is_well(tmp_path: Path, system: System) -> None:
    system.append(a_message())
    system.relay()
    environment = as_environment(system.settings)

    told = innbox("outbox", "audit", "--exactly-once", data=tmp_path, environment=environment)

    assert told.returncode == 0, told.stderr
    assert "Every committed message is where it should be." in told.stderr


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "yesterday"], "'yesterday' is neither ISO 8601 nor like"),
        (["--since", "999999d"], "there were no years then"),
        (["--since", "2h", "--until", "3h"], "not after --since"),
    ],
)
def test_a_window_that_is_none_is_a_clear_error(options: list[str], said: str) -> None:
    refused = CliRunner().invoke(cli, ["outbox", "audit", *options])
    assert refused.exit_code == 2
    assert said in " ".join(refused.stderr.split())
