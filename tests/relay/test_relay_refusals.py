"""What the brokers refuse blocks its key and nobody else; what is no message's fault blocks nobody."""

import signal
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from domain.messages import ROOM_RESERVE
from innbox_process.health import Health
from ops.topics import create_topics
from relay import relay as relay_module
from relay import step
from relay.publishing import producer as producer_module
from relay.publishing.errors import Abandoned, PublishRefused
from relay.publishing.producer import MessageProducer
from relay.relay import _BACKOFF_S_MAX, _BACKOFF_S_MIN, _Backoff
from relay.step import CRASHES_MAX
from runtime.settings import Settings
from tests.support.process_faults import FATAL_RETRY, FATAL_VALUE
from tests.support.refusals import (
    a_refused,
    accept_all,
    blocked,
    blocked_metric,
    is_blocked,
    refuse_above,
    retry,
)
from tests.support.relays import (
    a_message,
    a_relay,
    a_relay_process,
    append,
    appended,
    first_deliveries,
    is_wholly_relayed,
    messages_of_keys,
    published,
    the_shard,
)
from tests.support.waiting import DEADLINE_S, eventually

LEASE_S = 0.5


def test_a_refused_message_holds_up_its_key_and_nobody_else(
    engine: Engine, relaying: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Those in the same batch and reading flow on, and a blocked key is no outage."""
    refuse_above(relaying)
    before, refused, after = messages_of_keys(30), a_refused("key-1"), messages_of_keys(60)
    flowing = [*before, *(message for message in after if message.key != "key-1")]
    with capture_logs() as logs, a_relay(relaying) as relay:
        eventually(lambda: not relay.health.problems)
        append(engine, *before, refused, *after)
        published(relaying, flowing)
        eventually(lambda: is_wholly_relayed(engine))
        later = [a_message("key-1"), a_message("key-2")]
        append(engine, *later)
        records = published(relaying, [*flowing, later[1]])

        assert blocked_metric() == 1
        assert the_shard(engine).epoch == 1, "it was never given up"
        eventually(lambda: not relay.health.problems)
    assert first_deliveries(records) == appended([*flowing, later[1]])
    (found,) = blocked(engine)
    assert (found.key, found.topic, found.state) == ("key-1", ROOM_RESERVE, "BLOCKED")
    assert found.message_id == refused.message_id
    assert "too large" in found.reason
    told = [line["event"] for line in logs if "too large" in str(line)]
    assert told == ["a key is blocked"]
    assert not caplog.records, "the client has nothing to add"
    assert blocked_metric() == 0, "what a relay has given up is not its to count"


def test_headers_that_no_client_can_send_block_their_key(
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
    other = a_message("8")
    append(engine, other)
    with a_relay(settings):
        published(settings, [other])
        eventually(lambda: is_blocked(engine))


def test_a_relay_that_is_killed_amid_a_retry_leaves_it_to_the_next(
    engine: Engine, relaying: Settings, tmp_path: Path
) -> None:
    """Between the brokers' acknowledgement and the key's cursor; exactly once repeats none."""
    relaying = relaying.model_copy(update={"lease_s": LEASE_S})
    refuse_above(relaying)
    messages = [a_message(), a_refused(), *(a_message() for _ in range(6)), a_message("8")]
    append(engine, *messages)
    with a_relay(relaying):
        eventually(lambda: is_blocked(engine))
        published(relaying, messages[-1:])

    accept_all(relaying)
    retry(engine, "7")
    child = "dies_between_publishing_and_saving_a_retry"
    with a_relay_process(child, relaying, tmp_path / "child.log") as relay:
        assert relay.wait(timeout=30) == -signal.SIGKILL
    assert [found.state for found in blocked(engine)] == ["RETRYING"]

    with a_relay(relaying):
        eventually(lambda: not blocked(engine))
        records = published(relaying, messages)
    assert first_deliveries(records) == appended(messages)
    # Two are in hand, but for a retry that took longer than its turn: the next begins with one again.
    repeated = {0} if relaying.relay_mode == "exactly-once" else {1, 2 ** (FATAL_RETRY - 1)}
    assert len(records) - len(messages) in repeated


def test_a_message_that_kills_the_relay_is_found_over_restarts(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """It alone is blocked; and should an operator try it again, it is blocked again."""
    settings = settings.model_copy(update={"lease_s": LEASE_S})
    innocent = messages_of_keys(6)
    append(engine, innocent[0], a_message("fatal", FATAL_VALUE), *innocent[1:], a_message("fatal"))
    for attempts in (1, 2):
        log = tmp_path / f"{attempts}.log"
        assert deaths_until_blocked(engine, settings, log, attempts) <= 3
        (found,) = blocked(engine)
        assert found.key == "fatal"
        assert "crashed" in found.reason
        if attempts == 1:
            retry(engine, "fatal")
    with a_relay(settings):
        records = published(settings, innocent)
    assert first_deliveries(records) == appended(innocent)


def test_relays_that_are_killed_while_kafka_is_away_blame_no_message(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"lease_s": LEASE_S})
    nowhere = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    message = a_message()
    append(engine, message)
    with engine.begin() as connection:
        nearly = "UPDATE outbox.shard SET touches = :touches, touched = message.position"
        connection.execute(text(f"{nearly} FROM outbox.message"), {"touches": CRASHES_MAX - 1})
    with a_relay_process("relays", nowhere, tmp_path / "child.log"):
        eventually(lambda: touches(engine) == 0)
    with a_relay(settings):
        published(settings, [message])
        eventually(lambda: is_wholly_relayed(engine))
    assert not blocked(engine)


def test_a_topic_that_is_missing_blocks_nobody_and_is_waited_for(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it fails, and however fast."""
    monkeypatch.setattr(relay_module, "_BACKOFF_S_MAX", 0.2)
    fast = {"topic.metadata.propagation.max.ms": "50"}
    prefix = f"{settings.kafka_prefix}missing-"
    changes = {"kafka_prefix": prefix, "kafka_properties": fast, "lease_s": LEASE_S}
    settings = settings.model_copy(update=changes)
    messages = messages_of_keys(3)
    append(engine, *messages)
    with a_relay(settings) as relay:
        eventually(lambda: the_shard(engine).epoch > CRASHES_MAX + 1)
        eventually(lambda: "Unknown topic" in relay.health.problems.get("kafka", ""))
        assert relay.health.is_live
        assert not blocked(engine)

        create_topics(settings)
        records = published(settings, messages)
        eventually(lambda: not relay.health.problems)
    assert first_deliveries(records) == appended(messages)
    assert not blocked(engine)


def test_relays_that_wait_for_the_same_outage_do_not_ask_in_step() -> None:
    """The waits double up to a bound, each shortened by up to a half at random."""
    one, another = ([backoff.next_s() for _ in range(20)] for backoff in (_Backoff(), _Backoff()))
    assert one != another
    doubled = [min(_BACKOFF_S_MIN * 2**number, _BACKOFF_S_MAX) for number in range(20)]
    assert all(full / 2 <= waited <= full for waited, full in zip(one, doubled, strict=True))


def test_a_refusal_is_told_from_an_outage_however_the_client_says_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say first that it has failed, and only then of which message, while more are handed over."""
    monkeypatch.setattr(producer_module, "FLUSH_STEP_S", DEADLINE_S)  # it is to say so in the end
    refuse_above(settings)
    too_large = a_refused().value
    rows: list[tuple[object, ...]] = [
        (number, ROOM_RESERVE, "7", b"{}", b"{}", None) for number in range(2_000)
    ]
    rows[50] = (50, ROOM_RESERVE, "7", too_large, b"{}", None)

    def publish() -> None:
        prefix = settings.kafka_prefix
        with MessageProducer(settings.kafka, Health(), topic_prefix=prefix) as publisher:
            publisher.enqueue(rows, lambda: True)
            publisher.flush(lambda: True)

    for _ in range(8):  # which of it is heard first is a matter of luck
        with pytest.raises(PublishRefused, match="too large"):
            publish()


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
    with MessageProducer(nowhere, Health()) as publisher, pytest.raises(Abandoned):
        publisher.enqueue([row, row], lambda: False)


def test_a_reading_that_takes_longer_than_a_turn_is_published_all_the_same(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a key is blocked turns are short; one that began must come to something."""
    monkeypatch.setattr(step, "STEP_S", 0.0)
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO outbox.blocked_key (key, message_id, topic, message_position, reason,
                                                snapshot, floor, next_xid)
                VALUES ('blocked', gen_random_uuid(), 'room-reserve', 1, 'refused', '1:1:', 0, '1')
            """)
        )
    messages = messages_of_keys(50)
    append(engine, *messages)
    with a_relay(settings.model_copy(update={"relay_chunk": 8})):
        assert len(published(settings, messages)) == len(messages)


def test_a_statement_that_is_cut_short_is_tried_again(engine: Engine) -> None:
    """By its time limit, or by an operator's `pg_cancel_backend`."""
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 1"))
        with pytest.raises(OperationalError) as cut_short:
            connection.execute(text("SELECT pg_sleep(10)"))
    assert relay_module._may_pass(cut_short.value)


@pytest.mark.unit
def test_readings_of_large_messages_are_short() -> None:
    """So that what is in memory at a time has a bound."""
    small, large = (1, "t", "k", b"x" * 200, b"{}"), (1, "t", "k", b"x" * 1_000_000, b"{}")
    assert step._bearable([small] * 100) > settings_max()
    assert step._bearable([large] * 100) < 40
    assert step._bearable([(1, "t", "k", b"x" * 10**9, b"{}")]) == 1


def settings_max() -> int:
    """The default of RELAY_CHUNK."""
    return int(Settings.model_fields["relay_chunk"].default)


def touches(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT touches FROM outbox.shard")).scalar_one())


def deaths_until_blocked(engine: Engine, settings: Settings, log: Path, attempts: int) -> int:
    """Start the relay that dies of a message again and again, until its key is blocked."""
    for deaths in range(10):
        with a_relay_process("dies_of_a_message", settings, log) as relay:
            eventually(lambda: relay.poll() is not None or is_blocked(engine, "fatal", attempts))
            if is_blocked(engine, "fatal", attempts):
                return deaths
    pytest.fail(log.read_text())
