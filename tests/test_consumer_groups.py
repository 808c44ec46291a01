"""Members of a consumer group that come, go and die: no message is lost, no effect is doubled."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread

from confluent_kafka import (
    Message,
)
from sqlalchemy import Engine, create_engine

from consumers.member import Member
from consumers.records import record_of
from consumers.rooms import RoomsHandler
from domain.messages import ROOM_RESERVE, ROOMS_GROUP
from ops.topics import create_topics
from runtime.health import Health
from runtime.settings import Settings
from tests.consumer_children import a_child
from tests.room_requests import assert_effects_once, committed, held, requests
from tests.saga import (
    a_consumer,
    open_rooms,
    publish,
)
from tests.waiting import eventually

ROOMS = RoomsHandler()
TOPICS = (ROOM_RESERVE,)


@contextmanager
def a_member(settings: Settings) -> Iterator[Member]:
    member = Member(settings, ROOMS_GROUP, TOPICS, Health())
    member.join()
    try:
        yield member
    finally:
        member.leave()


def await_progress(engine: Engine) -> None:
    before = held(engine)
    eventually(lambda: held(engine) > before)


def step(members: list[Member], until: Callable[[], object]) -> None:
    """Turn these members' loops, in this thread, until the condition holds."""

    def turn() -> object:
        for member in members:
            member.batch()
        return until()

    eventually(turn)


def parts(member: Member) -> int:
    return len(member._owned)


def can_leave(member: Member) -> bool:
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
                eventually(lambda: parts(second._member))
                await_progress(engine)
            eventually(lambda: parts(first._member) == 6)
            await_progress(engine)
        finally:
            done.set()
        flowing.result()
        eventually(lambda: committed(settings) == sent)
    assert_effects_once(engine, sent)


def test_a_partition_that_is_given_while_resting_loses_no_message(
    settings: Settings,
) -> None:
    """What a rest's poll delivers is kept: dropped, the next offset would be committed over it."""
    with a_member(settings) as resting:
        with a_member(settings) as leaving:
            step([resting, leaving], lambda: parts(resting) and can_leave(leaving))
        publish(settings, requests(1, 30))
        given = Event()

        def look() -> None:
            if parts(resting) == 3 and resting._kept:
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


def ids(batch: list[Message]) -> list[int]:
    """Which requests these are."""
    return [record_of(message, "").message_id.int for message in batch]


def test_what_was_given_away_in_a_rest_is_neither_applied_nor_committed(
    settings: Settings,
) -> None:
    """Its next owner may be further on, and an old offset would set it back."""
    publish(settings, requests(1, 30))
    with a_member(settings) as resting:
        batch: list[Message] = []

        def read_all() -> bool:
            batch.extend(resting.batch())
            return len(batch) >= 30

        eventually(read_all)
        assert resting.owned(batch) == batch
        stop = Event()
        with a_member(settings) as other:
            thread = Thread(target=resting.rest, args=(30, stop, lambda: None))
            thread.start()
            step([other], lambda: parts(other))
            stop.set()
            thread.join()
            lost = {message.partition() for message in batch} - {
                partition for _, partition in resting._owned
            }
            kept = {message.partition() for message in resting.owned(batch)}
            assert lost
            assert not lost & kept


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
        assert parts(lame._member) == 0


def test_a_member_without_a_partition_is_ready(engine: Engine, settings: Settings) -> None:
    """More members than partitions: a standby is no fault."""
    one = settings.model_copy(update={"kafka_prefix": settings.kafka_prefix + "one-"})
    create_topics(one.model_copy(update={"topic_partitions": 1}))
    first, second = Health(parts=("kafka",)), Health(parts=("kafka",))
    with a_consumer(one, engine, ROOMS, first), a_consumer(one, engine, ROOMS, second):
        eventually(lambda: not first.problems and not second.problems)
