"""Mends: exactly what the brokers lost is published again, and what a person knows of is no alarm."""

import json
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner
from confluent_kafka import Message as Record
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # OffsetSpec is public all the same
    AdminClient,
    OffsetSpec,
)
from sqlalchemy import Engine, create_engine

import outbox
import outbox.admin
from domain.messages import ROOM_CANCEL, ROOM_RESERVE, TOPICS
from innbox_process.commands import CommandError
from ops.cli import cli
from ops.environment import as_environment
from ops.relay_config import relay_config
from ops.topics import create_topics
from outbox import Message, reader
from outbox.admin import LostMessage, MendTaken, Replay, ReplayState
from relay.cli.params import ids_from
from relay.cli.replay_output import tell
from relay.commands.replay import MEND_HEADER, REPLAY_HEADER, run_replay
from runtime.settings import Settings
from tests.support.audited import System, lose, named, of
from tests.support.kafka_reader import header, ids, read_topics
from tests.support.relays import a_message, appended, first_deliveries, ids_of, messages_of_keys
from tests.support.replays import DIES_BEFORE_SAVING, IN_HAND, RECORDED, a_child, a_session
from tests.support.waiting import eventually

# An exit code, and the object that was printed.
Told = tuple[int, dict[str, Any]]
Command = Callable[..., Told]


@pytest.fixture
def system(engine: Engine, settings: Settings) -> System:
    return System(engine, settings)


@pytest.fixture
def command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`innbox outbox … --json` in this process, which is spared a start of another one."""
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("relay.cli.deployment.configure_logs", lambda *_: None)

    def run(*arguments: str) -> Told:
        capsys.readouterr()
        exit_code = cli.main(args=["outbox", *arguments, "--json"], standalone_mode=False)
        return exit_code or 0, json.loads(capsys.readouterr().out)

    return run


def losing(system: System, lost: Collection[Message]) -> None:
    """Publish all that is unread but these, which the cursor passes all the same."""
    gone = {(message.topic, message.message_id) for message in lost}

    def publish(rows: Sequence[Any]) -> None:
        system.produce([row for row in rows if (row[1], UUID(header_of(row))) not in gone])

    system.relay(publish)


def header_of(row: Sequence[Any]) -> str:
    return reader.decode_headers(row[4])["ce_id"]


def in_topics(settings: Settings) -> list[Record]:
    """All that is in the topics now."""
    admin = AdminClient(settings.kafka)
    places = [
        TopicPartition(settings.kafka_prefix + name, part) for name in TOPICS for part in range(3)
    ]
    end: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = admin.list_offsets(dict.fromkeys(places, end))
    count = sum(answer.result(30).offset for answer in asked.values())
    return read_topics(settings, TOPICS, until=lambda found: len(found) >= count)


def marked(records: Sequence[Record]) -> list[Record]:
    return [each for each in records if MEND_HEADER in dict(each.headers() or [])]


def of_topic(settings: Settings, topic: str, records: Sequence[Record]) -> list[Record]:
    return [each for each in records if each.topic() == settings.kafka_prefix + topic]


def test_exactly_what_is_missing_is_published_again_in_key_order_and_marked(
    system: System, command: Command
) -> None:
    """And nothing is missing or out of order after it, though newer messages are before the mended."""
    first, kept, second, other = a_message("7"), a_message("7"), a_message("7"), a_message("8")
    cancel = a_message("7", topic=ROOM_CANCEL)
    twin = replace(kept, topic=ROOM_CANCEL)  # of the same id, in another topic
    system.append(first, cancel, kept, twin, second, other, a_message("7"))
    losing(system, lost := [first, second, other, cancel, twin])
    blocked, waiting = a_message("9"), a_message("7")
    system.append(blocked)
    with system.owning() as (connection, shard):
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
        reader.block_key(connection, shard, reading.cursor, reading.rows[0][0], "too large")
    system.append(waiting)

    exit_code, told = command("audit", "--mend", "--dry-run")
    assert exit_code == 1
    planned = {each["topic"]: each for each in told["mend"]["to_be_published"]}
    assert {topic: each["messages"] for topic, each in planned.items()} == {
        ROOM_RESERVE: 3,
        ROOM_CANCEL: 2,
    }
    ends = (planned[ROOM_RESERVE][end]["message_id"] for end in ("first", "last"))
    assert list(ends) == ids_of([first, other])
    with pytest.raises(CommandError, match="--yes"):
        command("audit", "--mend")
    assert marked(in_topics(system.settings)) == []

    exit_code, told = command("audit", "--mend", "--yes")
    (run,) = told["mend"]["runs"]
    assert (exit_code, run["state"], run["sent"], run["gone"]) == (0, ReplayState.DONE, 5, [])
    found = marked(in_topics(system.settings))
    assert sorted(ids(found)) == sorted(ids_of(lost))
    of_reserve = of_topic(system.settings, ROOM_RESERVE, found)
    assert first_deliveries(of_reserve) == {"7": ids_of([first, second]), "8": ids_of([other])}
    for record in found:
        assert header(record, MEND_HEADER) == str(run["id"])
        assert REPLAY_HEADER not in dict(record.headers() or [])

    after = system.audit(exactly_once=True)
    assert after.holds
    assert (of(after).missing, of(after).out_of_order, of(after).republished) == (0, 0, 3)
    assert (of(after).blocked, of(after).waiting) == (1, 1)
    exit_code, told = command("audit", "--mend", "--yes")
    assert (exit_code, told["mend"]) == (0, {"to_be_published": [], "runs": []})


def test_a_mend_that_is_killed_goes_on(
    system: System, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed, it repeats the part that was not recorded at most; begun anew, nothing."""
    system.append(*(messages := messages_of_keys(60)))
    system.relay(lose)
    child = a_child(system.settings, "audit", "--mend", "--yes", code=DIES_BEFORE_SAVING)
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    left = the_interrupted(system)
    assert (left.sent, left.expected) == (RECORDED, 60)

    # Parts begin with one message, then two: those are published, and not recorded.
    save, parts = outbox.admin.save_replay, count(1)

    def dying(*given: Any, **more: Any) -> Replay:
        if next(parts) == 2:
            raise KeyboardInterrupt
        return save(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(outbox.admin, "save_replay", dying)
        with pytest.raises(click.Abort):
            command("replay", "--resume", str(left.id))
    repeated = 3
    assert the_interrupted(system).sent == RECORDED + 1
    assert len(in_topics(system.settings)) == RECORDED + IN_HAND + repeated

    exit_code, told = command("audit", "--mend", "--yes")
    (run,) = told["mend"]["runs"]
    assert (exit_code, run["state"], run["sent"]) == (0, ReplayState.DONE, 60 - RECORDED - IN_HAND)
    with a_session(system.settings) as connection:
        states = {each.id: each.state for each in outbox.admin.replays(connection)}
    assert states == {left.id: ReplayState.CANCELLED, run["id"]: ReplayState.DONE}
    found = in_topics(system.settings)
    assert len(found) == 60 + repeated
    assert first_deliveries(found) == appended(messages)
    assert system.audit(exactly_once=True).holds


def the_interrupted(system: System) -> Replay:
    """The only run, once the server has heard of the end of its session."""
    with a_session(system.settings) as connection:
        eventually(
            lambda: (
                [each.state for each in outbox.admin.replays(connection)]
                == [ReplayState.INTERRUPTED]
            )
        )
        (left,) = outbox.admin.replays(connection)
    return left


def test_an_outbox_is_mended_by_one_process_at_a_time(system: System, command: Command) -> None:
    """From before its audit on, and whether it is begun or gone on with."""
    system.append(a_message())
    system.relay(lose)
    with a_session(system.settings) as first:
        outbox.admin.lock_mends(first)
        with pytest.raises(CommandError, match="another process mends this outbox"):
            command("audit", "--mend", "--yes")
        begun = outbox.admin.begin_mend(first, the_lost(system), per_second=0, started_by="a test")
    with a_session(system.settings) as second, a_session(system.settings) as third:
        eventually(
            lambda: (
                [each.state for each in outbox.admin.replays(second)] == [ReplayState.INTERRUPTED]
            )
        )
        outbox.admin.lock_mends(third)
        with pytest.raises(MendTaken):
            outbox.admin.take_replay(second, begun.id)
    assert command("audit", "--mend", "--dry-run")[0] == 1
    eventually(lambda: is_mended(command))  # the server hears of an ended session a little later


def is_mended(command: Command) -> bool:
    try:
        return command("audit", "--mend", "--yes")[0] == 0
    except CommandError:
        return False


def the_lost(system: System) -> list[LostMessage]:
    """What is missing, as the command takes it from an audit."""
    return [
        LostMessage(
            finding.position,
            UUID(finding.message_id),
            finding.topic,
            datetime.fromtimestamp(finding.created_at or 0, UTC),
        )
        for finding in system.audit().findings
    ]


def test_what_retention_has_dropped_meanwhile_is_named(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [a_message() for _ in range(5)]
    system.append(*messages)
    system.relay(lose)
    with a_session(system.settings) as connection:
        outbox.admin.lock_mends(connection)
        replay = outbox.admin.begin_mend(
            connection, the_lost(system), per_second=0, started_by="a test"
        )
        gone = ids_of(messages[1:3])
        system.sql(
            "DELETE FROM outbox.message WHERE message_id = ANY (CAST(:ids AS uuid[]))", ids=gone
        )
        ended = run_replay(
            connection, replay, relay_config(system.settings), Event(), lambda _: None
        )
        assert (ended.state, ended.sent, list(map(str, ended.gone))) == (ReplayState.DONE, 3, gone)
        assert tell(ended, "innbox", as_json=False) == 1
        (kept,) = outbox.admin.replays(connection)
    assert kept.gone == ended.gone
    told = " ".join(capsys.readouterr().err.split())
    assert all(f"cannot be published again: message {id_}" in told for id_ in gone)


def test_what_is_acknowledged_is_no_alarm_and_what_is_found_later_is(
    system: System, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """With who, when and why; a mend publishes it all the same; lost once more, it is a new finding."""
    system.append(*(lost := [a_message(), a_message("8"), a_message("9")]))
    system.relay(lose)
    known, stranger = str(lost[0].message_id), "0f8fad5b-d9cb-469f-a165-70867728950e"

    exit_code, answer = command("acknowledge", known, stranger, "--reason", "a test message")
    assert (exit_code, answer["nothing_found"]) == (1, [stranger])
    exit_code, answer = command("audit")
    (topic,) = (each for each in answer["topics"] if each["topic"] == ROOM_RESERVE)
    assert (exit_code, topic["missing"]) == (1, 3)
    assert (topic["acknowledged"], topic["unacknowledged"]) == ({"missing": 1}, {"missing": 2})
    assert topic["found"]["missing"][-1]["message_id"] == known  # who are not known of come first
    assert topic["found"]["missing"][-1]["acknowledged"]["reason"] == "a test message"
    assert "acknowledged" not in topic["found"]["missing"][0]

    with pytest.raises(CommandError, match="--yes"):
        command("acknowledge", "--all", "--reason", "INC-12")
    assert command("acknowledge", "--all", "--reason", "INC-12", "--yes")[0] == 0
    assert command("audit")[0] == 0
    assert cli.main(args=["outbox", "audit"], standalone_mode=False) == 0
    told = capsys.readouterr()
    assert "room-reserve: missing: 3 acknowledged; see --all" in told.out
    assert "Nothing is wrong beside 3 acknowledged findings" in told.err
    cli.main(args=["outbox", "audit", "--all"], standalone_mode=False)
    assert capsys.readouterr().out.count(": INC-12\n") == 2
    system.append(new := a_message())
    system.relay(lose)
    assert command("audit")[0] == 1
    assert command("acknowledge", known, "--reason", "again")[0] == 1  # it has been, and stays so

    assert command("audit", "--mend", "--yes")[0] == 0
    assert sorted(ids(in_topics(system.settings))) == sorted(ids_of([*lost, new]))
    lost_again = system.settings.model_copy(
        update={"kafka_prefix": f"{system.settings.kafka_prefix}again-"}
    )
    create_topics(lost_again)
    again = System(system.engine, lost_again).audit()
    assert of(again).unacknowledged == {"missing": 4}
    assert not again.holds


def test_disorder_can_be_acknowledged_and_disorder_in_a_mend_is_seen(
    system: System, command: Command
) -> None:
    """A mark excuses a record from being held against the relay's, and not against its own run's."""
    system.append(a_message(), overtook := a_message())
    system.relay(system.produce_backwards)
    assert named(of(system.audit()), "out_of_order") == ids_of([overtook])
    assert command("acknowledge", str(overtook.message_id), "--reason", "known")[0] == 0
    assert system.audit().holds

    def mend_backwards(rows: Sequence[Any]) -> None:
        headers = [reader.decode_headers(row[4]) | {MEND_HEADER: "1"} for row in rows]
        odd = [
            (*row[:4], json.dumps(each).encode()) for row, each in zip(rows, headers, strict=True)
        ]
        system.produce_backwards(odd)

    system.append(a_message("8"), second := a_message("8"))
    system.relay(mend_backwards)
    assert of(system.audit()).unacknowledged == {"out_of_order": 1}
    assert named(of(system.audit()), "out_of_order")[0] == str(second.message_id)


def test_two_databases_are_mended_each_by_a_run_of_its_own(
    engine: Engine, settings: Settings, second_database_url: str, command: Command
) -> None:
    """Whatever their positions are, and what is acknowledged is kept beside its message."""
    apart = settings.model_copy(update={"rooms_database_url": second_database_url})
    other = create_engine(second_database_url)
    messages = []
    for system in (System(engine, apart), System(other, apart)):
        system.append(*(lost := messages_of_keys(3)))
        system.relay(lose)
        messages += lost
    other.dispose()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOMS_DATABASE_URL", second_database_url)
        assert command("acknowledge", str(messages[-1].message_id), "--reason", "known")[0] == 0
        exit_code, told = command("audit", "--mend", "--yes")

    runs = told["mend"]["runs"]
    assert (exit_code, [(run["state"], run["sent"]) for run in runs]) == (
        0,
        [(ReplayState.DONE, 3), (ReplayState.DONE, 3)],
    )
    assert sorted(ids(in_topics(settings))) == sorted(ids_of(messages))


@pytest.mark.unit
def test_ids_come_from_a_file_or_standard_input_and_a_bad_line_is_named(tmp_path: Path) -> None:
    @click.command()
    @ids_from
    def show(ids_from: tuple[UUID, ...]) -> None:
        click.echo(" ".join(map(str, ids_from)))

    def asked(content: str) -> tuple[int, str]:
        file = tmp_path / "ids.txt"
        file.write_text(content, encoding="utf-8", newline="")
        by_name = CliRunner().invoke(show, ["--ids-from", str(file)])
        by_pipe = CliRunner().invoke(show, ["--ids-from", "-"], input=content.lstrip("\ufeff"))
        assert by_name.exit_code == by_pipe.exit_code
        return by_name.exit_code, by_name.output

    one, two = UUID(int=1), UUID(int=2)
    assert asked(f"\ufeff# lost\r\n{one}\r\n\r\n  {two} \n{one}\n") == (0, f"{one} {two}\n")
    for bad, said in (
        (f"{one}\n\nnothing\n", "line 3: 'nothing' is not a message id"),
        ("# none\n\n", "has no ids"),
    ):
        exit_code, output = asked(bad)
        assert exit_code == 2
        assert said in output


def test_ids_of_a_file_are_published_again(
    system: System, command: Command, tmp_path: Path
) -> None:
    system.append(*(messages := messages_of_keys(20)))
    system.relay(lose)
    wanted = [*messages[3:5], messages[11]]
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(["# lost", *ids_of(wanted)]))

    exit_code, told = command("replay", "--ids-from", str(file), "--id", str(wanted[0].message_id))

    assert (exit_code, told["replay"]["sent"]) == (0, 3)
    assert sorted(ids(in_topics(system.settings))) == sorted(ids_of(wanted))
