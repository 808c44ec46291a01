"""Replays: exactly what was selected is published again, once unless somebody dies, and in order."""

import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as Record
from sqlalchemy import Connection, Engine, text

import outbox
from consumers.dead_letters import open_letters
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE, TOPICS
from domain.reservations.model import Status
from ops.cli import cli
from ops.environment import as_environment
from ops.relay_config import relay_config
from outbox import Doorbell, Message, UnknownTopic, ValueTooLarge, admin
from outbox.admin import (
    NoSuchReplay,
    Replay,
    ReplayOver,
    ReplayState,
    ReplayTaken,
    Selection,
    Survey,
    survey,
)
from outbox.testing import drain
from relay.cli.params import Instant
from relay.cli.replay_output import tell
from relay.commands.replay import REPLAY_HEADER, next_turn, run_replay
from runtime.settings import Settings
from tests.support.commands import innbox
from tests.support.explain import FILL, executed_plan, indexes, is_of_log, nodes
from tests.support.kafka_reader import header, ids, read_topics
from tests.support.relays import (
    a_message,
    append,
    appended,
    first_deliveries,
    ids_of,
    messages_of_keys,
)
from tests.support.replays import DIES_BEFORE_SAVING, IN_HAND, RECORDED, a_child, a_session
from tests.support.saga import (
    a_consumer,
    a_relay,
    a_reservation,
    allocations,
    cancel_reservation,
    open_rooms,
    statuses,
    taken,
)
from tests.support.waiting import eventually


def relayed(engine: Engine, *messages: Message) -> list[Message]:
    """Append, and have the cursor pass the messages; the topics are left empty."""
    append(engine, *messages)
    drain(engine)
    return list(messages)


def surveyed(connection: Connection, selection: Selection) -> Survey:
    return survey(connection, selection, lambda *_: None)


def begun(
    connection: Connection, selection: Selection, to_topic: str | None = None, per_second: int = 0
) -> Replay:
    found = surveyed(connection, selection)
    return admin.create_replay(
        connection, found, to_topic=to_topic, per_second=per_second, started_by="a test"
    )


def run(
    connection: Connection,
    settings: Settings,
    replay: Replay,
    *,
    skip_refused: bool = False,
    seen: Callable[[Replay], object] = lambda _: None,
) -> Replay:
    return run_replay(
        connection, replay, relay_config(settings), Event(), seen, skip_refused=skip_refused
    )


def replayed(settings: Settings, selection: Selection, to_topic: str | None = None) -> Replay:
    with a_session(settings) as connection:
        return run(connection, settings, begun(connection, selection, to_topic))


def in_kafka(settings: Settings) -> int:
    """How many records the topics have ever had."""
    consumer = Consumer(settings.kafka | {"group.id": "counter"})
    places = [
        TopicPartition(settings.kafka_prefix + name, part) for name in TOPICS for part in range(3)
    ]
    ends = [consumer.get_watermark_offsets(place, timeout=10) for place in places]
    consumer.close()
    return sum(high for _, high in ends)


def records(settings: Settings, topics: Sequence[str] = TOPICS) -> list[Record]:
    """All that is in the topics now."""
    count = in_kafka(settings)
    return read_topics(settings, topics, until=lambda found: len(found) >= count)


def of_replay(found: Sequence[Record], replay: Replay) -> list[Record]:
    return [record for record in found if header(record, REPLAY_HEADER) == str(replay.id)]


def now(engine: Engine) -> datetime:
    with engine.connect() as connection:
        return admin.database_now(connection)


def place_of(engine: Engine, message: Message) -> int:
    query = "SELECT position FROM outbox.message WHERE message_id = :id"
    with engine.connect() as connection:
        return int(connection.execute(text(query), {"id": message.message_id}).scalar_one())


def execute(engine: Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def command(settings: Settings, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return innbox("outbox", *arguments, data=data, environment=as_environment(settings))


def test_exactly_what_is_selected_is_published_again_as_it_was(
    engine: Engine, settings: Settings
) -> None:
    """By time, topic, key, id, or all that together: same ids, headers, keys, values, key order."""
    early = relayed(engine, *messages_of_keys(20))
    since = now(engine)
    middle = relayed(
        engine, *messages_of_keys(20), *(a_message("key-1", b"no", ROOM_CANCEL) for _ in range(5))
    )
    until = now(engine)
    late = relayed(engine, *messages_of_keys(20))
    everything = [*early, *middle, *late]
    single = (middle[3].message_id, late[7].message_id)
    expected: dict[Selection, list[Message]] = {
        Selection(since=since, until=until): middle,
        Selection(topics=(ROOM_CANCEL,)): middle[20:],
        Selection(topics=(ROOM_CANCEL, ROOM_RESERVE), until=since): early,
        Selection(keys=("key-1", "key-4")): [m for m in everything if m.key in {"key-1", "key-4"}],
        Selection(message_ids=single): [middle[3], late[7]],
        Selection(keys=("key-1",), topics=(ROOM_RESERVE,), since=since): [
            m for m in (*middle[:20], *late) if m.key == "key-1"
        ],
    }
    replays = [replayed(settings, selection) for selection in expected]
    found = records(settings)
    for replay, messages in zip(replays, expected.values(), strict=True):
        ours = of_replay(found, replay)
        assert (replay.state, replay.sent, replay.expected) == (
            ReplayState.DONE,
            len(messages),
            len(messages),
        )
        assert sorted(ids(ours)) == sorted(ids_of(messages))
        for topic in (ROOM_RESERVE, ROOM_CANCEL):
            of_topic = [r for r in ours if r.topic() == settings.kafka_prefix + topic]
            wanted = appended(m for m in messages if m.topic == topic)
            assert first_deliveries(of_topic) == wanted
    assert len(found) == sum(map(len, expected.values()))

    again = of_replay(found, replays[4])[0]
    with engine.connect() as connection:
        query = "SELECT headers, value FROM outbox.message WHERE message_id = :id"
        row = connection.execute(text(query), {"id": header(again, "ce_id")}).one()
    names: dict[str, object] = dict(again.headers() or [])
    headers = {name: header(again, name) for name in names}
    assert headers == row.headers | {REPLAY_HEADER: str(replays[4].id)}
    assert again.value() == row.value


def test_a_dry_run_counts_and_publishes_nothing(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    relayed(engine, *messages_of_keys(7), *(a_message(topic=ROOM_CANCEL) for _ in range(3)))
    append(engine, *messages_of_keys(4))
    shown = command(settings, tmp_path, "replay", "--since", "1h", "--dry-run", "--json")
    counted = json.loads(shown.stdout)["dry_run"]
    assert counted["topics"] == {ROOM_CANCEL: 3, ROOM_RESERVE: 7}
    assert (counted["expected"], counted["left_out"]) == (10, 4)
    assert counted["first_at"] <= counted["last_at"]
    assert in_kafka(settings) == 0
    with a_session(settings) as connection:
        assert admin.replays(connection) == []


def test_it_goes_to_another_topic_if_that_is_declared_and_large_enough(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    messages = relayed(engine, *messages_of_keys(5), a_message(value=b"x" * 50))
    with engine.begin() as connection:
        outbox.declare_topics(connection, {"narrow": 49})
    refused = command(settings, tmp_path, "replay", "--since", "1h", "--to-topic", "narrow")
    assert refused.returncode == 2
    assert "50 bytes; the topic takes 49" in refused.stderr
    with a_session(settings) as connection:
        found = surveyed(connection, Selection(topics=(ROOM_RESERVE,)))
        with pytest.raises(UnknownTopic):
            admin.check_target(connection, "nowhere")
        with pytest.raises(ValueTooLarge):
            admin.check_target(connection, "narrow", found)
        admin.check_target(connection, RESERVATION_RESULT, found)
    assert in_kafka(settings) == 0

    replayed(settings, Selection(topics=(ROOM_RESERVE,)), RESERVATION_RESULT)
    assert first_deliveries(records(settings, [RESERVATION_RESULT])) == appended(messages)


def test_what_was_not_published_is_left_out_and_counted(engine: Engine, settings: Settings) -> None:
    """Unrelayed ones, those behind a blocked key's cursor, and what an operator skipped."""
    published = relayed(engine, a_message("free"), a_message("blocked"), a_message("skipped"))
    execute(engine, "CREATE TABLE seen AS SELECT snapshot FROM outbox.shard")
    behind = relayed(engine, a_message("blocked"), a_message("free"), a_message("blocked"))
    published.append(behind[1])
    execute(
        engine,
        """
        INSERT INTO outbox.blocked_key (key, message_id, topic, message_position, reason, snapshot,
                                        floor, next_xid)
        SELECT key, message_id, topic, position, 'too large', seen.snapshot, 0, '0'
        FROM outbox.message, seen WHERE message_id = :id
        """,
        id=behind[0].message_id,
    )
    execute(
        engine,
        """
        INSERT INTO outbox.dead_letter (message_id, topic, key, value, headers, position, created_at,
                                        reason, attempts, blocked_at, skipped_by)
        SELECT message_id, topic, key, value, headers, position, created_at, 'odd', 1, now(), 'Ann'
        FROM outbox.message WHERE message_id = :id
        """,
        id=published.pop(2).message_id,
    )
    # Another message that had the position of one of these, before a restore gave it out again.
    execute(
        engine,
        """
        INSERT INTO outbox.dead_letter (message_id, topic, key, value, headers, position, created_at,
                                        reason, attempts, blocked_at, skipped_by)
        SELECT gen_random_uuid(), topic, key, value, headers, position, created_at, 'odd', 1, now(), 'Ann'
        FROM outbox.message WHERE message_id = :id
        """,
        id=published[0].message_id,
    )
    # A backlog, of which a part is published.
    append(engine, *(parts := [a_message("free") for _ in range(6)]))
    execute(
        engine,
        "UPDATE outbox.shard SET batch_snapshot = pg_current_snapshot(), position = :position",
        position=place_of(engine, parts[3]),
    )
    published += parts[:4]
    append(engine, a_message("free"))

    replay = replayed(settings, Selection(since=now(engine) - timedelta(hours=1)))
    assert (replay.expected, replay.sent, replay.left_out) == (len(published), len(published), 6)
    assert first_deliveries(records(settings)) == appended(published)


def test_the_set_is_fixed_at_the_start(engine: Engine, settings: Settings) -> None:
    """Neither what is appended meanwhile joins it, nor a late committer, though it lies in between."""
    messages = relayed(engine, *messages_of_keys(5))
    with engine.connect() as late, a_session(settings) as connection:
        outbox.append(late, [a_message()])
        messages += relayed(engine, *messages_of_keys(5))
        replay = begun(connection, Selection(topics=(ROOM_RESERVE,)))
        late.commit()
        relayed(engine, *messages_of_keys(5))
        replay = run(connection, settings, replay)
    assert (replay.state, replay.sent, replay.left_out) == (ReplayState.DONE, 10, 0)
    assert first_deliveries(records(settings)) == appended(messages)


def test_a_replay_that_is_killed_goes_on_and_repeats_the_part_in_hand_at_most(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    messages = relayed(engine, *messages_of_keys(60))
    child = a_child(
        settings, "replay", "--topic", ROOM_RESERVE, "--per-second=0", code=DIES_BEFORE_SAVING
    )
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    with a_session(settings) as connection:  # the server hears of the death a little later
        eventually(
            lambda: [each.state for each in admin.replays(connection)] == [ReplayState.INTERRUPTED]
        )

    (left,) = json.loads(command(settings, tmp_path, "replays", "--json").stdout)["replays"]
    assert (left["state"], left["sent"], left["expected"]) == (
        ReplayState.INTERRUPTED,
        RECORDED,
        60,
    )
    resumed = command(settings, tmp_path, "replay", "--resume", str(left["id"]), "--json")
    assert json.loads(resumed.stdout)["replay"]["state"] == ReplayState.DONE
    found = records(settings)
    assert first_deliveries(found) == appended(messages)
    assert len(found) == len(messages) + IN_HAND


def test_a_request_to_end_is_heard_after_the_part_in_hand(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """It says how to go on, exits as any interrupted command, and nothing is lost."""
    messages = relayed(engine, *messages_of_keys(200))
    child = a_child(settings, "replay", "--since", "1h", "--per-second", "10")
    eventually(lambda: in_kafka(settings) > 3)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "INTERRUPTED" in told
    assert "Go on with: innbox outbox replay --resume 1" in told

    resumed = command(settings, tmp_path, "replay", "--resume=1", "--per-second=0", "--json")
    outcome = json.loads(resumed.stdout)["replay"]
    assert (outcome["state"], outcome["sent"]) == (ReplayState.DONE, 200)
    assert first_deliveries(records(settings)) == appended(messages)


def test_one_replay_is_run_by_one_process_at_a_time(engine: Engine, settings: Settings) -> None:
    """Whoever ends, in whatever way, frees it at once."""
    relayed(engine, *messages_of_keys(5))
    with a_session(settings) as second:
        with a_session(settings) as first:
            replay = begun(first, Selection(topics=(ROOM_RESERVE,)))
            with pytest.raises(ReplayTaken):
                admin.take_replay(second, replay.id)
            assert [each.state for each in admin.replays(second)] == [ReplayState.RUNNING]
        eventually(
            lambda: [each.state for each in admin.replays(second)] == [ReplayState.INTERRUPTED]
        )
        with pytest.raises(NoSuchReplay):
            admin.take_replay(second, replay.id + 1)
        assert run(second, settings, admin.take_replay(second, replay.id)).state == ReplayState.DONE
        with pytest.raises(ReplayOver):
            admin.take_replay(second, replay.id)


def test_a_replay_that_is_cancelled_stops_and_cannot_be_resumed(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    relayed(engine, *messages_of_keys(20))
    with a_session(settings) as connection:
        replay = begun(connection, Selection(topics=(ROOM_RESERVE,)))

        def cancel(_: Replay) -> None:
            assert command(settings, tmp_path, "replay", "--cancel", str(replay.id)).returncode == 0

        with pytest.raises(ReplayOver):
            run(connection, settings, replay, seen=cancel)
        assert [each.state for each in admin.replays(connection)] == [ReplayState.CANCELLED]
        with pytest.raises(ReplayOver):
            admin.take_replay(connection, replay.id)
    assert in_kafka(settings) == 3  # the first part, and the one that was in hand


def test_what_retention_drops_meanwhile_is_gone_and_counted(
    engine: Engine, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = relayed(engine, *messages_of_keys(10))
    with a_session(settings) as connection:
        replay = begun(connection, Selection(topics=(ROOM_RESERVE,)))
        gone = place_of(engine, messages[6])
        execute(engine, "DELETE FROM outbox.message WHERE position < :gone", gone=gone)
        assert tell(run(connection, settings, replay), "innbox", as_json=False) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "4 of 10 messages sent, 6 gone with the retention" in told
    assert sorted(ids(records(settings))) == sorted(ids_of(messages[6:]))


def test_a_refused_message_is_named_and_the_rest_goes_out_once_it_is_mended(
    engine: Engine, settings: Settings
) -> None:
    before, behind = messages_of_keys(9), messages_of_keys(9)
    refused = a_message(value=b"\x00\xff" * 2_000)
    relayed(engine, *before, refused, *behind)
    narrow = settings.model_copy(update={"kafka_properties": {"message.max.bytes": "2000"}})
    with a_session(settings) as connection:
        stopped = run(connection, narrow, begun(connection, Selection(topics=(ROOM_RESERVE,))))
        assert (stopped.state, stopped.sent) == (ReplayState.REFUSED, len(before))
        assert str(refused.message_id) in str(stopped.reason)
        assert set(ids(records(settings))) == set(ids_of(before))
        mended = run(connection, settings, admin.take_replay(connection, stopped.id))
    assert (mended.state, mended.sent, mended.reason) == (ReplayState.DONE, 19, None)
    assert first_deliveries(records(settings)) == appended([*before, refused, *behind])


def test_what_can_never_be_sent_is_passed_over_if_one_wishes(
    engine: Engine, settings: Settings
) -> None:
    """A writer that is not `append` may insert anything that is JSON."""
    messages = relayed(engine, *messages_of_keys(9))
    odd = messages.pop(4).message_id
    execute(
        engine, """UPDATE outbox.message SET headers = '{"a": 1}' WHERE message_id = :id""", id=odd
    )
    with a_session(settings) as connection:
        replay = begun(connection, Selection(topics=(ROOM_RESERVE,)))
        replay = run(connection, settings, replay, skip_refused=True)
    assert (replay.state, replay.sent, replay.refused) == (ReplayState.DONE, 8, 1)
    assert first_deliveries(records(settings)) == appended(messages)


def test_brokers_that_have_no_such_topic_end_the_run_and_not_the_replay(
    engine: Engine, settings: Settings
) -> None:
    relayed(engine, *messages_of_keys(3))
    elsewhere = settings.model_copy(
        update={
            "kafka_prefix": f"{settings.kafka_prefix}nowhere-",
            "kafka_properties": {"topic.metadata.propagation.max.ms": "100"},
        }
    )
    with a_session(settings) as connection:
        replay = begun(connection, Selection(topics=(ROOM_RESERVE,)))
        with pytest.raises(KafkaException):
            run(connection, elsewhere, replay)
        (left,) = admin.replays(connection)
        assert left.state == ReplayState.INTERRUPTED
        assert "topic" in str(left.reason)
        assert (
            run(connection, settings, admin.take_replay(connection, replay.id)).state
            == ReplayState.DONE
        )


def test_replaying_a_saga_changes_nothing(engine: Engine, settings: Settings) -> None:
    """The rooms' inventory and every reservation are what they were, after all has come again."""
    handlers = (RoomsHandler(), ResultsHandler(Doorbell(engine, "nobody")))
    open_rooms(engine)
    with ExitStack() as stack:
        stack.enter_context(a_relay(settings))
        for handler in handlers:
            stack.enter_context(a_consumer(settings, engine, handler))

        def settled(id_: int, status: Status) -> None:
            eventually(lambda: statuses(engine, [id_]) == [status])

        kept, given_up = a_reservation(engine).id, a_reservation(engine).id
        settled(kept, Status.CONFIRMED)
        settled(given_up, Status.CONFIRMED)
        cancel_reservation(engine, given_up)
        settled(given_up, Status.CANCELLED)
        before = taken(engine), allocations(engine)

        with a_session(settings) as connection:
            eventually(lambda: surveyed(connection, Selection(topics=TOPICS)).expected == 6)
            assert run(connection, settings, begun(connection, Selection(topics=TOPICS))).sent == 6
        # Behind the replayed ones, in the room's partition of either topic.
        last = a_reservation(engine).id
        settled(last, Status.CONFIRMED)
        cancel_reservation(engine, last)
        settled(last, Status.CANCELLED)
    assert (taken(engine), allocations(engine)) == (before[0], before[1] | {last: "RELEASED"})
    assert statuses(engine, [kept, given_up]) == [Status.CONFIRMED, Status.CANCELLED]
    with engine.connect() as connection:
        assert not open_letters(connection)


def test_a_part_is_found_by_position_and_not_sorted(engine: Engine, settings: Settings) -> None:
    """In the partitions of the days in question alone, however much there is."""
    days = [now(engine) - timedelta(days=ago) for ago in range(3)]
    with engine.begin() as connection:
        admin.ensure_partitions(connection, days[-1].date(), days_ahead=2)
    for day in reversed(days):
        execute(engine, str(FILL), created_at=day, rows=4_000)
    drain(engine)
    execute(engine, "ANALYZE outbox.message")
    with a_session(settings) as connection:
        selection = Selection(since=days[1] - timedelta(minutes=1), until=days[0])
        replay = begun(connection, selection, to_topic=ROOM_CANCEL)
        assert replay.expected == 4_000
        admin.read_replay(connection, replay, limit=100)
        values = [replay.extent.cursors, ROOM_CANCEL, replay.position, replay.extent.last_position]
        values += [replay.extent.first_at, replay.extent.last_at, selection.since, selection.until]
        plan = executed_plan(connection, "coalesce($2", [*values, 100])
    scans = [node for node in nodes(plan) if is_of_log(node)]
    assert indexes(plan) == {"pkey"}
    assert not any("Sort" in node["Node Type"] for node in nodes(plan))
    assert all(node["Actual Rows"] <= 101 for node in nodes(plan))
    yesterday = f"message_{days[1]:%Y%m%d}"
    assert {node.get("Relation Name") for node in scans} <= {yesterday, "message_default"}


@pytest.mark.unit
def test_no_second_has_more_messages_than_it_may_whatever_was_held_up() -> None:
    """A minute's outage in the middle is not made up for by going faster after it."""
    clock, turn_at, sent = 0.0, 0.0, []
    for part in range(100):
        clock = max(clock, turn_at)
        sent += [clock] * 25
        turn_at = next_turn(turn_at, clock, 25, 100)
        clock += 60 if part == 50 else 0.125
    for first in sent:
        assert sum(first <= at < first + 1 for at in sent) <= 100
    assert sent[-1] == pytest.approx(99 * 0.25 + 60, abs=0.5)


@pytest.mark.unit
def test_no_limit_is_no_waiting() -> None:
    assert next_turn(5.0, 7.0, 1_000, 0) == 7.0


@pytest.mark.unit
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--resume", "1", "--cancel", "2"],
        ["--resume", "1", "--dry-run"],
        ["--cancel", "1", "--to-topic", "elsewhere"],
        ["--topic", "room-reserve", "--resume", "1"],
        ["--since", "soon"],
    ],
)
def test_what_makes_no_sense_is_refused_before_a_server_is_asked(arguments: list[str]) -> None:
    refused = CliRunner().invoke(cli, ["outbox", "replay", *arguments])
    assert refused.exit_code == 2
    assert "Usage" in refused.output


def test_a_selection_of_nothing_is_said(settings: Settings, tmp_path: Path) -> None:
    refused = command(settings, tmp_path, "replay", "--key", "nobody's")
    assert refused.returncode == 2
    assert "no published message is like this" in refused.stderr


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("2026-12-24", datetime(2026, 12, 24, tzinfo=UTC)),
        ("2026-12-24T08:00+01:00", datetime(2026, 12, 24, 7, tzinfo=UTC)),
    ],
)
def test_times_are_iso_8601_or_how_long_ago(given: str, meant: datetime | timedelta) -> None:
    assert Instant().convert(given, None, None) == meant
