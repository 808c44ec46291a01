"""The relay: at least once, first deliveries in key order, and nothing asked for in vain."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Event
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, text

import outbox
from domain.messages import ROOM_RESERVE
from innbox_process.database import direct_engine
from innbox_process.health import Health
from ops.relay_config import relay_config
from outbox import install_doorbell, reader
from outbox.reader import Shard
from relay import worker
from relay.publishing.producer import MessageProducer
from relay.relay import Relay
from runtime.settings import Settings
from tests.support.kafka_reader import header, ids, read_topics
from tests.support.relays import (
    a_message,
    a_relay,
    append,
    appended,
    first_deliveries,
    is_wholly_relayed,
    messages_of_keys,
    published,
    the_shard,
)
from tests.support.waiting import eventually


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
    stop, flush = Event(), MessageProducer.flush

    def stop_in_the_second_reading(*arguments: object) -> None:
        flush(*arguments)  # type: ignore[arg-type]
        if the_shard(engine).cursor.position is not None:
            stop.set()

    monkeypatch.setattr(MessageProducer, "flush", stop_in_the_second_reading)
    relay_engine = direct_engine(settings, settings.database_url, "relay", "innbox_relay")
    Relay(relay_engine, relay_config(settings), Health(), stop).run()

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
    monkeypatch.setattr(worker, "_POLL_S_MIN", 60.0)
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
        # A last reading on the connection that is being cut may have been in time.
        eventually(lambda: the_shard(engine).epoch == epoch + 1)


def test_the_lag_is_the_age_of_the_oldest_message_that_is_not_published(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows through an outage by itself, and ends with the backlog."""
    append(engine, *messages_of_keys(3))
    with engine.begin() as connection:
        an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        connection.execute(
            text("""
                UPDATE outbox.message
                SET headers = jsonb_set(headers::jsonb, '{ce_time}', to_jsonb(CAST(:at AS text)))
                WHERE position = (SELECT min(position) + 1 FROM outbox.message)
            """),
            {"at": an_hour_ago},
        )
    is_away = Event()
    is_away.set()
    flushes = count()
    flush = MessageProducer.flush

    def flush_later(publisher: MessageProducer, keep_waiting: Callable[[], bool]) -> None:
        if next(flushes) > 0:  # the first reading is of one message, the next of two
            eventually(lambda: not is_away.is_set())
        flush(publisher, keep_waiting)

    monkeypatch.setattr(MessageProducer, "flush", flush_later)
    with a_relay(settings):
        eventually(lambda: lag_s() >= 3_600)
        first = lag_s()
        assert first < 3_700
        eventually(lambda: lag_s() > first)
        is_away.clear()
        eventually(lambda: is_wholly_relayed(engine) and lag_s() == 0)


def lag_s() -> float:
    return REGISTRY.get_sample_value("innbox_relay_lag_seconds") or 0.0


def test_an_idle_relay_records_how_far_it_has_looked(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who takes over would walk through all that was written for other shards meanwhile."""
    monkeypatch.setattr(worker, "_RECORD_S", 0.0)
    before = the_shard(engine).cursor.next_xid
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_current_xact_id()"))
    with a_relay(settings):
        eventually(lambda: int(the_shard(engine).cursor.next_xid) > int(before))


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


def test_a_busy_relay_saves_its_cursor_now_and_then_and_once_it_is_idle(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved cursor for every few messages would cost as much as the messages."""
    saves, save = [], reader.save

    def counted(*arguments: Any, **options: Any) -> Shard:
        saves.append(arguments)
        return save(*arguments, **options)

    monkeypatch.setattr(reader, "save", counted)
    doorbell = install_doorbell(engine, interval_ms=0)
    with a_relay(settings.model_copy(update={"gather_ms": 1_000.0, "poll_s_max": 60.0})):
        append(engine, a_message())
        eventually(lambda: is_wholly_relayed(engine))
        saves.clear()
        messages = messages_of_keys(30)
        for message in messages:
            append(engine, message)
        eventually(lambda: is_wholly_relayed(engine))
        assert 0 < len(saves) < 10
    doorbell.close()
    assert len(published(settings, messages)) == 31


def test_a_stop_saves_the_cursor_that_waited(engine: Engine, settings: Settings) -> None:
    doorbell = install_doorbell(engine)
    with a_relay(settings.model_copy(update={"gather_ms": 1_000.0, "poll_s_max": 60.0})):
        append(engine, a_message())
        eventually(lambda: is_wholly_relayed(engine))
        for message in messages_of_keys(5):
            append(engine, message)
            published(settings, [message])
    doorbell.close()
    assert is_wholly_relayed(engine)
