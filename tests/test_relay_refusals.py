"""What cannot be published: it is shown, holds back what is behind it, and is repeated rarely."""

from typing import Any

import pytest
from confluent_kafka import admin
from sqlalchemy import Engine, text

from domain.messages import ROOM_CANCEL, ROOM_RESERVE
from relay.publisher import Abandoned, Publisher
from runtime.health import Health
from runtime.settings import Settings
from tests.kafka_reader import ids
from tests.relays import (
    a_message,
    a_relay,
    append,
    appended,
    first_deliveries,
    ids_of,
    is_wholly_relayed,
    messages_of_keys,
    published,
    the_shard,
)
from tests.waiting import eventually


def test_a_refused_message_stops_what_is_behind_it_and_its_retries_repeat_little(
    engine: Engine, settings: Settings
) -> None:
    """The operator sees which one it is; once it is accepted all is published, in order."""
    # Batches so small that those behind the refused one would be sent without it.
    settings = settings.model_copy(update={"kafka_properties": {"batch.num.messages": "3"}})
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
    row: tuple[object, ...] = (1, ROOM_RESERVE, "7", b"", b"{}", None)
    with Publisher(nowhere, Health()) as publisher, pytest.raises(Abandoned):
        publisher.enqueue([row, row], lambda: False)


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
