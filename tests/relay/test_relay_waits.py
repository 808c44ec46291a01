"""Refusals that are no message's fault are waited for; impossible topics block their messages' keys."""

import time
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

import outbox
from domain.messages import ROOM_RESERVE
from innbox_process.health import Health
from ops.topics import create_topics
from outbox import InvalidTopicName
from relay import relay as relay_module
from relay.publishing import producer as producer_module
from relay.publishing.errors import PublishRefused
from relay.publishing.producer import MessageProducer
from runtime.settings import Settings
from tests.support.kafka_reader import ids
from tests.support.refusals import blocked, configure_topic, is_blocked, refuse_above, retry, skip
from tests.support.relays import (
    Running,
    a_message,
    a_relay,
    append,
    appended,
    first_deliveries,
    ids_of,
    messages_of_keys,
    published,
    the_shard,
)
from tests.support.waiting import eventually

TWO_HOURS_S = 7_200
AN_HOUR_MS = 3_600_000
WITHOUT_LIMIT_MS = 2**63 - 1
IMPOSSIBLE = ["orders v1", "..", "__consumer_offsets"]


class Clock:
    """The clock of a relay's machine, which may be wrong."""

    ahead_s = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that records get their times from: the client's own would need another machine."""
    clock = Clock()

    class OfThatMachine(Producer):
        def produce(self, *arguments: Any, **named: Any) -> None:
            named["timestamp"] = int((time.time() + clock.ahead_s) * 1_000)
            super().produce(*arguments, **named)

    monkeypatch.setattr(producer_module, "Producer", OfThatMachine)
    monkeypatch.setattr(relay_module, "_BACKOFF_S_MAX", 0.2)
    return clock


def test_a_clock_that_is_wrong_blocks_nobody_and_is_waited_for(
    engine: Engine, relaying: Settings, clock: Clock
) -> None:
    """Not ready with the reason, said once; and it goes on by itself when the clock is right."""
    messages = [a_message("first"), *messages_of_keys(10)]
    with capture_logs() as logs, a_relay(relaying) as relay:
        append(engine, messages[0])
        published(relaying, messages[:1])
        clock.ahead_s = TWO_HOURS_S
        append(engine, *messages[1:])  # in one reading, of which no single message is told apart
        stays_away(engine, relay, "clock", times=3)
        assert not blocked(engine)

        clock.ahead_s = 0
        records = published(relaying, messages)
        eventually(lambda: not relay.health.problems)
    assert first_deliveries(records) == appended(messages)
    assert not blocked(engine)
    reasons = [
        line["reason"] for line in logs if line["event"] == "relay cannot make progress; retrying"
    ]
    assert len(reasons) == 1, "it is said once, however often it is tried"
    assert f"{relaying.kafka_prefix}{ROOM_RESERVE}" in reasons[0]


def test_a_limit_of_the_topic_blocks_no_key_that_is_retried_either(
    engine: Engine, settings: Settings, clock: Clock
) -> None:
    """A topic takes no record that is older than an hour, and the relay's clock is two hours behind."""
    refuse_above(settings, 1_000)
    messages = [a_message("7", b"x" * 2_000), a_message("7"), a_message("8")]
    append(engine, *messages)
    with a_relay(settings) as relay:
        eventually(lambda: is_blocked(engine))
        published(settings, messages[2:])
        clock.ahead_s = -TWO_HOURS_S
        configure_topic(settings, ROOM_RESERVE, "message.timestamp.before.max.ms", AN_HOUR_MS)
        refuse_above(settings, 1_000_000)
        retry(engine, "7")
        stays_away(engine, relay, "message.timestamp.before.max.ms", times=2)
        assert [found.state for found in blocked(engine)] == ["RETRYING"]

        configure_topic(settings, ROOM_RESERVE, "message.timestamp.before.max.ms", WITHOUT_LIMIT_MS)
        records = published(settings, messages)
        eventually(lambda: not blocked(engine) and not relay.health.problems)
    assert first_deliveries(records) == appended(messages)


def test_a_topic_that_cannot_exist_holds_up_the_keys_of_its_messages_and_nobody_else(
    engine: Engine, relaying: Settings
) -> None:
    """Declared before names were checked, or by hand; each is named, and can be skipped."""
    relaying = relaying.model_copy(update={"kafka_prefix": ""})  # which makes some of them possible
    create_topics(relaying)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO outbox.topic SELECT unnest(CAST(:names AS text[])), 1000"),
            {"names": IMPOSSIBLE},
        )
    bad = [a_message(f"key-{topic}", topic=topic) for topic in IMPOSSIBLE]
    good = [a_message(f"good-{topic}") for topic in IMPOSSIBLE]
    with a_relay(relaying) as relay:
        append(engine, *(each for pair in zip(bad, good, strict=True) for each in pair))
        published(relaying, good)
        eventually(lambda: len(blocked(engine)) == len(bad))
        for found in blocked(engine):
            assert (found.key, found.state) == (f"key-{found.topic}", "BLOCKED")
            assert repr(found.topic) in found.reason
        assert {str(found.message_id) for found in blocked(engine)} == set(ids_of(bad))
        eventually(lambda: not relay.health.problems)

        append(engine, behind := a_message(bad[0].key))
        skip(engine, bad[0].key)
        records = published(relaying, [*good, behind])
        eventually(lambda: len(blocked(engine)) == len(bad) - 1)
    assert set(ids_of([*good, behind])) <= set(ids(records))


def test_a_topic_that_cannot_exist_is_not_declared(engine: Engine) -> None:
    """Nor is any that is declared with it."""
    with engine.connect() as connection:
        before = outbox.known_topics(connection)
        for name in [*IMPOSSIBLE, "", " ", ".", "ü", "a/b", "x" * 250, "orders\n"]:
            with pytest.raises(InvalidTopicName) as refusal:
                outbox.declare_topics(connection, {"orders": 1_000, name: 1_000})
            assert (refusal.value.code, refusal.value.topic) == ("INVALID_TOPIC_NAME", name)
            assert repr(name) in str(refusal.value)
        assert outbox.known_topics(connection) == before

        outbox.declare_topics(connection, {"o" * 239: 1_000}, prefix="p" * 10)
        with pytest.raises(InvalidTopicName, match="prefix included"):
            outbox.declare_topics(connection, {"o" * 240: 1_000}, prefix="p" * 10)


def test_what_brokers_hold_against_a_record_is_refused(settings: Settings) -> None:
    """One without a key in a compacted topic, and one that is larger than a segment."""
    small = {"segment.bytes": "1048576", "max.message.bytes": "3000000"}
    without_key = a_row(settings, "compacted", {"cleanup.policy": "compact"}, key=None)
    too_large = a_row(settings, "segments", small, value=b"x" * 1_500_000)
    for row, reason in [(without_key, "validate"), (too_large, "segment size")]:
        with pytest.raises(PublishRefused, match=reason):
            publish(settings, row)


def a_row(
    settings: Settings,
    topic: str,
    config: dict[str, str],
    *,
    key: str | None = "7",
    value: bytes = b"{}",
) -> tuple[object, ...]:
    """A row of the outbox for a topic of its own, which is made."""
    client = AdminClient(settings.kafka)
    name = settings.kafka_prefix + topic
    client.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(30)
    return (1, topic, key, value, b"{}", None)


def publish(settings: Settings, row: tuple[object, ...]) -> None:
    prefix = settings.kafka_prefix
    with MessageProducer(settings.kafka, Health(), topic_prefix=prefix) as publisher:
        publisher.enqueue([row], lambda: True)
        publisher.flush(lambda: True)


def stays_away(engine: Engine, relay: Running, reason: str, *, times: int) -> None:
    """Wait until the shard was tried so many times more; never once is it ready meanwhile."""
    eventually(lambda: reason in relay.health.problems.get("kafka", ""))
    epoch = the_shard(engine).epoch + times

    def has_been_tried() -> bool:
        assert reason in relay.health.problems.get("kafka", ""), relay.health.problems
        assert relay.health.is_live
        return the_shard(engine).epoch >= epoch

    eventually(has_been_tried)
