"""Members of a consumer group that come, go and die: no message is lost, no effect is doubled."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

import pytest
from confluent_kafka import Message, Producer, TopicPartition
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine

from consumers import group
from consumers.group import GroupConsumer
from consumers.positions import Partition
from consumers.rooms import RoomsHandler
from domain.messages import ROOM_RESERVE, ROOMS_GROUP
from innbox_process.health import Health
from innbox_process.records import record_of
from ops.topics import create_topics
from runtime.settings import Settings
from tests.support.consumer_children import a_child
from tests.support.db_faults import refusing
from tests.support.room_requests import assert_effects_once, committed, held, requests
from tests.support.saga import (
    a_consumer,
    open_rooms,
    publish,
)
from tests.support.waiting import eventually

ROOMS = RoomsHandler()
TOPICS = (ROOM_RESERVE,)


@contextmanager
def a_member(
    settings: Settings, health: Health | None = None, *, group: str = ROOMS_GROUP
) -> Iterator[GroupConsumer]:
    member = GroupConsumer(settings, group, TOPICS, health or Health())
    member.join()
    try:
        yield member
    finally:
        member.leave()


def await_progress(engine: Engine) -> None:
    before = held(engine)
    eventually(lambda: held(engine) > before)


def step(members: list[GroupConsumer], until: Callable[[], object]) -> None:
    """Turn these members' loops, in this thread, until the condition holds."""

    def turn() -> object:
        for member in members:
            member.batch()
        return until()

    eventually(turn)


def parts(member: GroupConsumer) -> int:
    return len(member._owned)


def can_leave(member: GroupConsumer) -> bool:
    """Whether it has partitions to give away, and has seen the brokers it would tell."""
    return parts(member) > 0 and member._problem is None


def test_a_killed_members_partitions_move_to_the_others(engine: Engine, settings: Settings) -> None:
    open_rooms(engine, capacity=1_000)
    with a_child("rooms", settings) as child:
        publish(settings, requests(1, 100))
        eventually(lambda: held(engine) == 100)
        with a_consumer(settings, engine, ROOMS):
            child.kill()
            publish(settings, requests(101, 100))
            eventually(lambda: committed(settings) == 200)
    assert_effects_once(engine, 200)


def test_members_that_come_and_go_lose_and_double_nothing(
    engine: Engine, settings: Settings
) -> None:
    """While messages flow; the second takes its part, and gives it back."""
    open_rooms(engine, capacity=100_000)
    done = Event()
    sent = 0

    def flow() -> None:
        nonlocal sent
        while not done.wait(0.05):
            publish(settings, requests(sent + 1, 10))
            sent += 10

    small = settings.model_copy(update={"batch_size_max": 20})
    with ThreadPoolExecutor(1) as aside, a_consumer(small, engine, ROOMS) as first:
        flowing = aside.submit(flow)
        try:
            eventually(lambda: held(engine))
            with a_consumer(small, engine, ROOMS) as second:
                eventually(lambda: parts(second._group))
                await_progress(engine)
            eventually(lambda: parts(first._group) == 6)
            await_progress(engine)
        finally:
            done.set()
        flowing.result()
        eventually(lambda: committed(settings) == sent)
    assert_effects_once(engine, sent)


def test_a_partition_that_is_given_while_resting_loses_no_message(
    settings: Settings,
) -> None:
    """It is paused like the others, and read from where the group stands when the rest is over."""
    with a_member(settings) as resting:
        with a_member(settings) as leaving:
            step([resting, leaving], lambda: parts(resting) and can_leave(leaving))
        publish(settings, requests(1, 30))
        given = Event()

        def look() -> None:
            if parts(resting) == 3:
                given.set()

        resting.rest(30, given, look)
        assert given.is_set()
        assert parts(resting) == 3
        seen: list[int] = []

        def read_on() -> bool:
            seen.extend(ids(resting.batch()))
            return len(set(seen)) >= 30

        eventually(read_on)
        assert set(seen) == set(range(1, 31))


def test_offsets_that_wait_are_committed_before_a_partition_leaves_and_at_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets of several batches are committed together; the next owner begins behind all of them."""
    monkeypatch.setattr(group, "OFFSETS_EVERY_S", 3.0)
    small = settings.model_copy(update={"batch_size_max": 10})
    publish(settings, requests(1, 90))
    seen: list[int] = []

    def handle_all(*members: GroupConsumer, until: int) -> None:
        while len(seen) < until:
            for member in members:
                batch = member.batch()
                seen.extend(ids(batch))
                member.handled(batch)

    with a_member(small) as first:
        handle_all(first, until=90)
        assert committed(settings) < 90
        with a_member(small) as second:
            step([first, second], lambda: parts(second))
            publish(settings, requests(91, 60))
            handle_all(first, second, until=150)
    publish(settings, requests(151, 30))
    with a_member(small) as third:
        handle_all(third, until=180)
    assert sorted(seen) == list(range(1, 181))


def ids(batch: list[Message]) -> list[int]:
    """Which requests these are."""
    return [record_of(message, "").message_id.int for message in batch]


def test_what_was_revoked_since_in_a_rest_is_neither_applied_nor_committed(
    settings: Settings,
) -> None:
    """Its next owner may be further on, and an old offset would set it back.

    Nor is it where the partition has come back: then it is read again from the group's offset.
    """
    publish(settings, requests(1, 30))
    with a_member(settings) as resting:
        batch: list[Message] = []

        def read_all() -> bool:
            batch.extend(resting.batch())
            return len(batch) >= 30

        eventually(read_all)
        resting._revoked_since.clear()
        assert resting.owned(batch) == batch
        stop = Event()
        with a_member(settings) as other:
            thread = Thread(target=resting.rest, args=(60, stop, lambda: None))
            thread.start()
            step([other], lambda: parts(other))
            lost = {partition for _, partition in other._owned}
            kept = {message.partition() for message in resting.owned(batch)}
            assert kept == {0, 1, 2} - lost
            step([other], lambda: can_leave(other))
        eventually(lambda: parts(resting) == 3)
        stop.set()
        thread.join()
        assert {message.partition() for message in resting.owned(batch)} == kept

        again: list[int | None] = []

        def read_on() -> bool:
            again.extend(message.partition() for message in resting.batch())
            return len(again) >= 10 * len(lost)

        eventually(read_on)
        assert set(again) == lost


@pytest.mark.parametrize("protocol", ["cooperative-sticky", "range"])
def test_a_partition_that_left_in_a_rest_and_comes_back_later_is_read(
    engine: Engine, settings: Settings, protocol: str
) -> None:
    """The client keeps a pause over revocation: nobody would ever resume it."""
    open_rooms(engine, capacity=1_000)
    by = settings.model_copy(
        update={"kafka_properties": {"partition.assignment.strategy": protocol}}
    )
    health = Health()
    its_own = create_engine(engine.url)
    with a_consumer(by, its_own, ROOMS, health) as first:
        publish(settings, requests(1, 30))
        eventually(lambda: committed(settings) == 30)
        with ExitStack() as comes_and_goes:
            with refusing(engine):
                publish(settings, requests(31, 30))
                eventually(lambda: "database" in health.problems)
                second = comes_and_goes.enter_context(a_member(by))
                step([second], lambda: parts(second))
            step([second], lambda: not health.problems and can_leave(second))
        publish(settings, requests(61, 30))
        eventually(lambda: committed(settings) == 90)
        assert parts(first._group) == 6
    its_own.dispose()
    assert_effects_once(engine, 90)


def test_a_stalled_partition_is_seen_and_its_reading_resumed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assigned, behind and not read: the member is not ready, and says so by a metric."""
    monkeypatch.setattr("consumers.positions.STALLED_AFTER_S", 0.5)
    health = Health()
    with a_member(settings, health) as member:
        publish(settings, requests(1, 30))
        seen: list[int] = []

        def read_on(count: int) -> bool:
            seen.extend(ids(member.batch()))
            return len(seen) == count

        eventually(lambda: read_on(30))
        topic = settings.kafka_prefix + ROOM_RESERVE
        member._consumer.pause([TopicPartition(topic, 1)])
        publish(settings, requests(31, 30))
        eventually(lambda: not read_on(60) and "partitions" in health.problems)
        assert health.problems["partitions"].endswith(f": {topic}/1")
        assert stalled() == 1
        eventually(lambda: read_on(60))
        assert "partitions" not in health.problems
        assert stalled() == 0


def test_a_partition_that_ends_without_a_record_is_not_stalled(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction leaves a marker behind its records, and nothing else if it was aborted."""
    monkeypatch.setattr("consumers.positions.STALLED_AFTER_S", 0.5)
    topic, health = settings.kafka_prefix + ROOM_RESERVE, Health()
    producer = Producer(settings.kafka | {"transactional.id": topic})
    producer.init_transactions(30)
    for partition, end in enumerate((producer.commit_transaction, producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, b"{}", partition=partition)
        end(30)
    producer.begin_transaction()
    producer.produce(topic, b"{}", partition=2)
    producer.flush(30)  # committed by nobody yet
    compared: list[set[Partition]] = []
    with a_member(settings, health) as member:
        compare = member._positions.compare

        def compare_and_note(ends: Mapping[Partition, int]) -> list[Partition]:
            compared.append(set(ends))
            return compare(ends)

        monkeypatch.setattr(member._positions, "compare", compare_and_note)
        step([member], lambda: len(compared) >= 3)
        assert set().union(*compared) == member._owned
        assert health.problems == {}
    producer.abort_transaction(30)


def stalled() -> float:
    return (
        REGISTRY.get_sample_value("innbox_consumer_stalled_partitions", {"group": ROOMS_GROUP})
        or 0.0
    )


def test_who_has_no_database_takes_no_partitions(engine: Engine, settings: Settings) -> None:
    """A member that cannot work would only keep them from members that can."""
    open_rooms(engine, capacity=100)
    health = Health()
    broken = create_engine(engine.url.set(port=1))
    with (
        a_consumer(settings, broken, ROOMS, health) as lame,
        a_consumer(settings, engine, ROOMS),
    ):
        eventually(lambda: "database" in health.problems)
        publish(settings, requests(1, 30))
        eventually(lambda: committed(settings) == 30)
        assert parts(lame._group) == 0


def test_a_member_without_a_partition_is_ready(engine: Engine, settings: Settings) -> None:
    """More members than partitions: a standby is no fault."""
    one = settings.model_copy(update={"kafka_prefix": settings.kafka_prefix + "one-"})
    create_topics(one.model_copy(update={"topic_partitions": 1}))
    first, second = Health(parts=("kafka",)), Health(parts=("kafka",))
    with a_consumer(one, engine, ROOMS, first), a_consumer(one, engine, ROOMS, second):
        eventually(lambda: not first.problems and not second.problems)
