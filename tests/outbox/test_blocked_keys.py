"""Blocked keys in an operator's hands: tried again or skipped, and in order whatever is decided."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

import outbox
from domain.messages import ROOM_RESERVE
from ops.environment import as_environment
from outbox import admin, reader
from outbox.admin import KeyNotBlocked
from outbox.reader import LeaseLost
from relay import step, worker
from relay.cli.params import person
from runtime.settings import Settings
from tests.support.commands import innbox
from tests.support.kafka_reader import ids
from tests.support.refusals import (
    BYTES_MAX,
    a_refused,
    accept_all,
    blocked,
    is_blocked,
    refuse_above,
    retry,
    skip,
    skipped,
    traffic,
)
from tests.support.relays import (
    a_message,
    a_relay,
    append,
    appended,
    claimed,
    first_deliveries,
    ids_of,
    is_wholly_relayed,
    messages_of_keys,
    published,
)
from tests.support.waiting import eventually


def test_a_retry_publishes_what_waited_in_order_and_frees_the_key(
    engine: Engine, relaying: Settings
) -> None:
    """What the brokers refuse again is blocked again, and nothing has overtaken it."""
    refuse_above(relaying)
    messages = [a_message(), a_refused(), a_message(), a_message("8"), a_message()]
    append(engine, *messages)
    with a_relay(relaying):
        eventually(lambda: is_blocked(engine))
        retry(engine, "7")
        eventually(lambda: is_blocked(engine, attempts=2))
        append(engine, *(more := [a_message(), a_message("8")]))
        free = [message for message in [*messages, *more] if message.key == "8"]
        assert first_deliveries(published(relaying, [messages[0], *free])) == appended(
            [messages[0], *free]
        )

        accept_all(relaying)
        retry(engine, "7")
        eventually(lambda: not blocked(engine))
        append(engine, last := a_message())
        records = published(relaying, [last])
    assert first_deliveries(records) == appended([*messages, *more, last])


def test_a_skipped_message_is_kept_whole_and_what_was_behind_it_is_published(
    engine: Engine, relaying: Settings
) -> None:
    """Who, when and why; and the next one that is refused waits for a decision of its own."""
    refuse_above(relaying)
    first, second = a_refused(), a_refused()
    behind = [a_message() for _ in range(5)]
    append(engine, first, *behind[:2], second, *behind[2:])
    with a_relay(relaying):
        eventually(lambda: is_blocked(engine))
        skip(engine)
        eventually(lambda: ids_of([second]) == [str(found.message_id) for found in blocked(engine)])
        eventually(lambda: is_blocked(engine))
        skip(engine)
        eventually(lambda: not blocked(engine))
        append(engine, last := a_message())
        records = published(relaying, [last])
    assert first_deliveries(records) == appended([*behind, last])

    _, letter = skipped(engine)
    assert letter.message_id == first.message_id
    assert (letter.topic, letter.key, letter.value) == (first.topic, first.key, first.value)
    assert letter.headers["ce_id"] == str(first.message_id)
    assert (letter.skipped_by, letter.note) == ("ann@office", "a test")
    assert "too large" in letter.reason
    assert letter.created_at <= letter.blocked_at <= letter.skipped_at


def test_a_skip_is_not_undone_by_the_next_relay(engine: Engine, relaying: Settings) -> None:
    """Though what the last one knew of the key lies before the skipped message."""
    refuse_above(relaying)
    large, larger, behind = a_refused(), a_refused(value_bytes=3 * BYTES_MAX), a_message()
    append(engine, large, larger, behind)
    with a_relay(relaying):
        eventually(lambda: is_blocked(engine))
        refuse_above(relaying, 2 * BYTES_MAX)
        retry(engine, "7")
        published(relaying, [large])
        eventually(lambda: ids_of([larger]) == [str(found.message_id) for found in blocked(engine)])

    accept_all(relaying)
    skip(engine)
    with a_relay(relaying):
        records = published(relaying, [behind])
        eventually(lambda: not blocked(engine))
    assert ids(records) == ids_of([large, behind])


def test_retries_get_their_turn_although_there_is_always_something_to_publish(
    engine: Engine, settings: Settings
) -> None:
    """Several keys at once, while the relay does not catch up."""
    refuse_above(settings)
    keys = ["a", "b", "c"]
    held = [message for key in keys for message in (a_refused(key), a_message(key))]
    append(engine, *held)
    slow = settings.model_copy(update={"relay_chunk": 5})
    with a_relay(slow), traffic(engine) as written:
        eventually(lambda: len(blocked(engine)) == len(keys))
        eventually(lambda: len(written) > 5_000)  # of which the relay has for seconds
        accept_all(settings)
        retry(engine, *keys)
        published(settings, held)
        assert not is_wholly_relayed(engine)
    with a_relay(settings):
        eventually(lambda: not blocked(engine))
        records = published(settings, [*held, *written])
    assert first_deliveries(records) == appended([*held, *written])


def test_many_keys_that_are_retried_at_once_leave_the_others_their_turns(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two of them all the others are looked after, once a turn's time is over."""
    monkeypatch.setattr(worker, "STEP_S", 0.0)
    append(engine, *(messages := messages_of_keys(5)))
    shard = claimed(engine)
    with engine.begin() as connection:
        for _ in messages:
            reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
            reader.block_key(connection, shard, reading.cursor, reading.rows[0][0], "a clock")
            shard = reader.save(connection, shard, reading.cursor, lease_s=60)
        reader.release_shard(connection, shard)
        assert len(admin.retry_all_keys(connection)) == len(messages)

    turns: list[str] = []
    relay_once, retry_once = step.relay_once, step.retry_once
    relaying = partial(recorded, turns, relay_once, "all the others")
    monkeypatch.setattr(worker, "relay_once", relaying)
    monkeypatch.setattr(worker, "retry_once", partial(recorded, turns, retry_once, "a key"))
    with a_relay(settings):
        records = published(settings, messages)
        eventually(lambda: not blocked(engine))
    assert first_deliveries(records) == appended(messages)
    assert turns.count("a key") >= len(messages)
    assert ("a key", "a key") not in set(pairwise(turns))


def recorded(turns: list[str], step: Any, turn: str, *arguments: Any, **named: Any) -> Any:
    turns.append(turn)
    return step(*arguments, **named)


@pytest.mark.parametrize("decision", ["retry", "skip"])
def test_who_commits_late_is_not_lost_whatever_is_decided(
    engine: Engine, settings: Settings, decision: str
) -> None:
    """Transactions of the key that were open when it was blocked, or even when it was decided about."""
    refuse_above(settings)
    early, refused, later, behind = a_message(), a_refused(), a_message(), a_message()
    with engine.connect() as one, engine.connect() as another, a_relay(settings):
        outbox.append(one, [early])
        append(engine, refused)
        outbox.append(another, [later])
        eventually(lambda: is_blocked(engine))
        append(engine, behind)
        one.commit()
        eventually(lambda: is_wholly_relayed(engine))
        if decision == "skip":
            skip(engine)
        else:
            accept_all(settings)
            retry(engine, "7")
        expected = [early, behind] if decision == "skip" else [refused, early, behind]
        published(settings, expected)
        eventually(lambda: not blocked(engine))
        another.commit()
        records = published(settings, [*expected, later])
    assert set(ids(records)) == set(ids_of([*expected, later]))


@pytest.mark.usefixtures("held")
def test_of_two_who_decide_at_once_the_second_finds_it_decided(engine: Engine) -> None:
    """One dead letter, and no message is skipped that is being tried again."""
    with engine.connect() as first, ThreadPoolExecutor(1) as threads:
        admin.skip_message(first, "7", skipped_by="ann@office")
        second = threads.submit(skip, engine)
        eventually(lambda: is_waiting_for_a_lock(engine))
        first.commit()
        with pytest.raises(KeyNotBlocked):
            second.result()
    assert len(skipped(engine)) == 1
    with pytest.raises(KeyNotBlocked):
        retry(engine, "7")
    with pytest.raises(KeyNotBlocked):
        retry(engine, "nobody")


def test_who_is_losing_the_shard_blocks_nothing(engine: Engine) -> None:
    """Else the new owner, who has looked for blocked keys, would not know of this one."""
    append(engine, a_message())
    direct = engine.execution_options(isolation_level="AUTOCOMMIT")
    with direct.connect() as old, engine.connect() as new, ThreadPoolExecutor(1) as threads:
        shard = claimed(engine)
        reading = reader.read(old, shard.cursor, shard.hashes, limit=1)
        new.execute(text("UPDATE outbox.shard SET owner = 'another', epoch = epoch + 1"))
        position = reading.rows[0][0]
        late = threads.submit(reader.block_key, old, shard, reading.cursor, position, "too large")
        eventually(lambda: is_waiting_for_a_lock(engine))
        new.commit()
        with pytest.raises(LeaseLost):
            late.result()
    assert not blocked(engine)


@pytest.mark.usefixtures("held")
def test_the_messages_that_wait_behind_are_counted_up_to_a_bound(engine: Engine) -> None:
    append(engine, *messages_of_keys(50), a_message(), a_message("8"), a_message())
    with engine.connect() as connection:
        assert admin.count_waiting(connection) == {"7": (3, False)}
        assert admin.count_waiting(connection, look_at=10) == {"7": (1, True)}


@pytest.mark.usefixtures("held")
def test_the_command_shows_blocked_keys_and_decides_about_them(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    def command(*arguments: str) -> tuple[int, dict[str, Any]]:
        environment = as_environment(settings)
        done = innbox("outbox", "blocked", *arguments, data=tmp_path, environment=environment)
        return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}

    (found,) = command("list", "--json")[1]["blocked_keys"]
    (key,) = blocked(engine)
    assert (found["key"], found["topic"], found["attempts"]) == ("7", ROOM_RESERVE, 1)
    assert found["message_id"] == str(key.message_id)
    assert (found["reason"], found["waiting"], found["may_be_more"]) == ("too large", 1, False)
    assert found["database"] == "reservations and rooms"

    code, refused = command("retry", "--all", "--json")
    assert (code, "Blocked keys: 1." in refused["said"], "--yes" in refused["said"]) == (
        2,
        True,
        True,
    )
    code, refused = command("skip", "7", "--json")
    assert (code, "--yes" in refused["said"]) == (2, True)
    code, outcome = command("skip", "7", "nobody", "--yes", "--note", "a test", "--json")
    assert code == 1, "nobody is not blocked"
    assert outcome["blocked_keys"] == {
        "7": "message skipped",
        "nobody": "key 'nobody' is not blocked",
    }
    code, outcome = command("retry", "7", "--json")
    assert (code, "not blocked" in outcome["blocked_keys"]["7"]) == (1, True)

    (letter,) = command("skipped", "--json")[1]["skipped"]
    assert (letter["message_id"], letter["note"]) == (str(key.message_id), "a test")
    assert letter["value"] == "{}"
    assert letter["skipped_by"] == person()


@pytest.mark.usefixtures("held")
def test_all_blocked_keys_are_retried_at_once(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """Whatever is decided about already stays as it is."""

    def command(*arguments: str) -> tuple[int, dict[str, str]]:
        environment = as_environment(settings)
        blocked_keys = ("outbox", "blocked", "retry", *arguments, "--json")
        done = innbox(*blocked_keys, data=tmp_path, environment=environment)
        return done.returncode, json.loads(done.stdout)["blocked_keys"] if done.stdout else {}

    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO outbox.blocked_key (key, state, message_id, topic, message_position,
                                                reason, snapshot, floor, next_xid)
                SELECT another.key, another.state, message_id, topic, message_position, reason,
                       snapshot, floor, next_xid
                FROM outbox.blocked_key,
                     (VALUES ('8', 'BLOCKED'), ('9', 'RETRYING')) AS another (key, state)
            """)
        )
    assert [found.state for found in blocked(engine)] == ["BLOCKED", "BLOCKED", "RETRYING"]
    assert command("--all", "--yes") == (0, dict.fromkeys(["7", "8"], "is tried again"))
    assert {found.state for found in blocked(engine)} == {"RETRYING"}
    assert command("--all") == (0, {}), "nothing is left to ask about"


@pytest.fixture
def held(engine: Engine) -> None:
    """Key 7 is blocked by its first message; one waits behind it."""
    append(engine, a_message(), a_message())
    shard = claimed(engine)
    with engine.begin() as connection:
        reading = reader.read(connection, shard.cursor, shard.hashes, limit=1)
        reader.block_key(connection, shard, reading.cursor, reading.rows[0][0], "too large")


def is_waiting_for_a_lock(engine: Engine) -> bool:
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    with engine.connect() as connection:
        return bool(connection.execute(text(waiting)).scalar_one())
