"""The relay: at least once, first deliveries in key order, and nothing asked for in vain."""

import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from confluent_kafka import admin
from sqlalchemy import Engine, create_engine, text

import outbox
from domain.messages import ROOM_CANCEL, ROOM_RESERVE
from outbox import LeaseLost, install_doorbell
from relay import loop
from relay.publisher import Abandoned, Publisher
from runtime.database import direct_engine
from runtime.health import Health
from runtime.settings import Settings
from tests.kafka_reader import header, ids, read_topics
from tests.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    appended,
    first_deliveries,
    ids_of,
    is_wholly_relayed,
    messages_of_keys,
    owner_pid,
    published,
    the_shard,
)
from tests.waiting import eventually


def test_what_is_committed_is_published_with_its_headers(
    engine: Engine, settings: Settings
) -> None:
    message = a_message(value=b'{"reservationId":1}')
    append(engine, message)
    with a_relay(settings):
        (record,) = read_topics(settings, [ROOM_RESERVE], until=bool)

    assert record.key() == b"7"
    assert record.value() == b'{"reservationId":1}'
    assert header(record, "ce_id") == str(message.message_id)
    assert header(record, "ce_specversion") == "1.0"
    assert header(record, "content-type") == "application/json"


def test_what_is_rolled_back_is_never_published(engine: Engine, settings: Settings) -> None:
    with engine.connect() as connection:
        outbox.append(connection, [a_message()])
        connection.rollback()
    kept = a_message()
    append(engine, kept)
    with a_relay(settings):
        records = read_topics(settings, [ROOM_RESERVE], until=bool)

    assert ids(records) == [str(kept.message_id)]


def test_a_backlog_larger_than_a_reading_is_published_once_and_in_order(
    engine: Engine, settings: Settings
) -> None:
    messages = messages_of_keys(1_000)
    append(engine, *messages)
    with a_relay(settings.model_copy(update={"relay_chunk": 64})):
        records = published(settings, messages)
        eventually(lambda: is_wholly_relayed(engine))

    assert len(records) == len(messages)
    assert first_deliveries(records) == appended(messages)


def test_a_backlog_that_fills_its_last_reading_counts_as_relayed(
    engine: Engine, settings: Settings
) -> None:
    """Else its partition would be kept until the next message comes."""
    append(engine, *messages_of_keys(3))  # a reading of one, and one of two
    with a_relay(settings.model_copy(update={"relay_chunk": 2})):
        eventually(lambda: is_wholly_relayed(engine))


def test_a_stop_in_the_midst_of_a_backlog_comes_after_the_reading_in_hand(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded is what was published, and the next relay goes on from there."""
    messages = messages_of_keys(200)
    append(engine, *messages)
    stop, flush = Event(), Publisher.flush

    def stop_in_the_second_reading(*arguments: object) -> None:
        flush(*arguments)  # type: ignore[arg-type]
        if the_shard(engine).cursor.position is not None:
            stop.set()

    monkeypatch.setattr(Publisher, "flush", stop_in_the_second_reading)
    relay_engine = direct_engine(settings, settings.database_url, "relay")
    loop.Relay(relay_engine, settings, Health(), stop).run()

    left = the_shard(engine)
    assert left.owner is None
    assert not is_wholly_relayed(engine)

    monkeypatch.undo()
    with a_relay(settings):
        eventually(lambda: is_wholly_relayed(engine))
    assert len(published(settings, messages)) == len(messages)


def test_an_idle_relay_is_woken_by_the_doorbell_and_not_by_its_poll(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_POLL_S_MIN", 60.0)
    doorbell = install_doorbell(engine)
    with a_relay(settings.model_copy(update={"poll_s_max": 60.0})):
        for _ in range(3):
            message = a_message()
            append(engine, message)
            published(settings, [message])
    doorbell.close()


def test_a_relay_without_a_doorbell_polls(engine: Engine, settings: Settings) -> None:
    with a_relay(settings) as relay:
        eventually(lambda: not relay.health.problems)
        message = a_message()
        append(engine, message)
        published(settings, [message])


def test_a_long_wait_for_the_bell_keeps_the_lease_and_ends_with_a_stop(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll is far longer than the lease and than any shutdown."""
    monkeypatch.setattr(loop, "_POLL_S_MIN", 60.0)
    patient = settings.model_copy(update={"poll_s_max": 60.0, "lease_s": 0.5})
    with a_relay(patient) as relay:
        first = eventually(lambda: the_shard(engine).leased_until)
        eventually(lambda: the_shard(engine).leased_until != first)
        epoch = the_shard(engine).epoch
        asked_at = time.monotonic()
        relay.stop.set()
        eventually(lambda: the_shard(engine).owner is None)
        assert time.monotonic() - asked_at < 3
    assert epoch == 1


def test_an_idle_relay_is_ready_once_it_has_seen_the_brokers(settings: Settings) -> None:
    with a_relay(settings) as relay:
        eventually(lambda: not relay.health.problems)


def test_a_relay_outlasts_the_cut_of_its_connections(engine: Engine, settings: Settings) -> None:
    with a_relay(settings):
        before, epoch = a_message(), 1
        append(engine, before)
        published(settings, [before])
        assert the_shard(engine).epoch == epoch

        with engine.begin() as connection:
            cut = connection.execute(
                text("""
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'innbox-relay' AND datname = current_database()
                """)
            )
            assert cut.rowcount >= 1
        after = a_message()
        append(engine, after)
        published(settings, [after])
        assert the_shard(engine).epoch == epoch + 1


def test_a_relay_that_reconnects_does_not_wait_for_its_own_lease(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        first = outbox.claim(connection, "one", lease_s=60)
        assert outbox.claim(connection, "another", lease_s=60) is None
        second = outbox.claim(connection, "one", lease_s=60)
        assert first is not None
        assert second is not None
        with pytest.raises(LeaseLost):
            outbox.save(connection, first, first.cursor, lease_s=60)
        outbox.save(connection, second, second.cursor, lease_s=60)


def test_two_databases_are_relayed_by_two_relays(
    engine: Engine, settings: Settings, second_database_url: str
) -> None:
    second_engine = create_engine(second_database_url)
    second = settings.model_copy(
        update={"relay_context": "rooms", "database_url": second_database_url}
    )
    here, there = a_message(key="here"), a_message(key="there")
    append(engine, here)
    append(second_engine, there)
    with a_relay(settings), a_relay(second):
        records = published(settings, [here, there])
        eventually(lambda: is_wholly_relayed(engine) and is_wholly_relayed(second_engine))
    second_engine.dispose()

    assert len(records) == 2


def test_a_refused_message_stops_what_is_behind_it_and_its_retries_repeat_little(
    engine: Engine, settings: Settings
) -> None:
    """The operator sees which one it is; once it is accepted all is published, in order."""
    _limit_message_bytes(settings, ROOM_CANCEL, 2_000)
    before = [a_message(topic=ROOM_CANCEL) for _ in range(40)]
    refused = a_message(topic=ROOM_CANCEL, value=b"\x00\xff" * 2_000)
    behind = [a_message(topic=ROOM_CANCEL) for _ in range(40)]
    append(engine, *before, refused, *behind)
    with a_relay(settings) as relay:
        published(settings, before)
        reason = eventually(lambda: _problem(relay.health, naming="'7'"))
        assert "refused" in reason
        assert relay.health.is_live

        # Every recorded message is one before the refused one.
        eventually(lambda: (the_shard(engine).cursor.position or 0) >= len(before))
        assert the_shard(engine).cursor.position == len(before)
        waiting = ids(published(settings, before))
        assert set(waiting) == set(ids_of(before))
        assert len(waiting) <= 2 * (len(before) + len(behind))

        _limit_message_bytes(settings, ROOM_CANCEL, 1_000_000)
        records = published(settings, [refused, *behind])
        eventually(lambda: not relay.health.problems)
    assert first_deliveries(records) == appended([*before, refused, *behind])


def test_headers_that_no_client_can_send_are_a_refusal_and_no_crash(
    engine: Engine, settings: Settings
) -> None:
    """A writer that is not `append` may insert anything that is JSON."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO outbox.message (message_id, topic, key, value, headers)
                VALUES (gen_random_uuid(), :topic, '7', '', '{"count": 1}')
            """),
            {"topic": ROOM_RESERVE},
        )
    with a_relay(settings) as relay:
        assert "refused" in eventually(lambda: _problem(relay.health, naming="'7'"))


def test_a_queue_that_is_full_makes_the_relay_wait(engine: Engine, settings: Settings) -> None:
    messages = messages_of_keys(300)
    append(engine, *messages)
    small = settings.model_copy(update={"kafka_properties": {"queue.buffering.max.messages": "20"}})
    with a_relay(small):
        records = published(settings, messages)
        eventually(lambda: is_wholly_relayed(engine))
    assert first_deliveries(records) == appended(messages)


def test_waiting_for_room_in_a_full_queue_ends_with_a_stop() -> None:
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "queue.buffering.max.messages": "1"}
    row: tuple[object, ...] = (1, ROOM_RESERVE, "7", b"", {}, None)
    with Publisher(nowhere, Health()) as publisher, pytest.raises(Abandoned):
        publisher.enqueue([row, row], lambda: False)


def test_a_stop_signal_releases_the_shard_to_the_standby_at_once(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """With a lease so long that only a release can be the reason."""
    patient = settings.model_copy(update={"lease_s": 600.0})
    with a_relay_process("relays", patient, tmp_path / "owner.log") as owner:
        eventually(lambda: owner_pid(engine) == owner.pid)
        with a_relay(patient) as standby:
            eventually(lambda: not standby.health.problems)
            owner.terminate()
            assert owner.wait(timeout=10) == 0
            eventually(lambda: owner_pid(engine) not in {None, owner.pid})
    assert owner_pid(engine) is None


def _problem(health: Health, *, naming: str) -> str:
    problem = health.problems.get("kafka", "")
    return problem if naming in problem else ""


def _limit_message_bytes(settings: Settings, topic: str, limit: int) -> None:
    client: Any = admin.AdminClient(settings.kafka)
    kinds: Any = admin  # its types are incomplete
    entry = kinds.ConfigEntry(
        "max.message.bytes", str(limit), incremental_operation=kinds.AlterConfigOpType.SET
    )
    resource = kinds.ConfigResource(
        kinds.ConfigResource.Type.TOPIC, settings.kafka_prefix + topic, incremental_configs=[entry]
    )
    client.incremental_alter_configs([resource])[resource].result(10)
