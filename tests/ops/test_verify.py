"""`innbox verify`: it accepts a world that is right, even a busy one, and sees what is wrong.

The world: in the alpine room (two of a kind) Anna and Ben are CONFIRMED, so Clara is REJECTED; Dora had
the seaside room and is CANCELLED. Each test breaks it in one way and names what must be seen.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # it is public
from sqlalchemy import Connection, Engine, create_engine, text

import consumers
import ops
import outbox
import outbox.admin
import relay
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from domain import messages
from domain.answers import Answer
from domain.messages import RESERVATION_RESULT, RESERVATIONS_SOURCE, ROOM_RESERVE, TOPICS
from domain.reservations import model, store
from domain.reservations.model import Cause, NewReservation, Reservation, Status
from domain.stay import Stay
from innbox_process.database import direct_engine
from innbox_process.health import Health
from innbox_process.records import Record
from ops.cli import cli
from ops.environment import as_environment
from ops.relay_config import relay_config
from ops.topics import create_topics
from ops.verify import Finding, Verdict, consumption, find_unconsumed, silent, verify
from ops.verify.consumption import GROUPS
from outbox import Doorbell, reader
from relay.commands.replay import MEND_HEADER
from relay.publishing.cursor_store import publisher_for
from relay.step import Work, relay_once
from runtime.settings import Context, Settings
from tests.support.audited import System, lose
from tests.support.factories import reserved
from tests.support.relays import a_message
from tests.support.saga import set_nights

EVE = date(2026, 12, 24)
CHRISTMAS = Stay(EVE, EVE + timedelta(days=3))
ALPINE, SEASIDE = 7, 8
ANNA, BEN, CLARA, DORA = 1, 2, 3, 4

UNREAD = text("""
    SELECT position, topic, key, value, headers FROM outbox.message
    WHERE position > :position AND topic = ANY (:topics) ORDER BY position
""")

_END: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class World:
    """The real pieces without their processes: each step is taken when the test says so."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reservations = create_engine(settings.database_of("reservations"))
        self.rooms = create_engine(settings.database_of("rooms"))
        self._read = {RESERVATION_RESULT: 0, ROOM_RESERVE: 0}

    def open(self) -> None:
        with self.rooms.begin() as connection:
            set_nights(connection, ALPINE, EVE, EVE + timedelta(days=5), 2)
            set_nights(connection, SEASIDE, EVE, EVE + timedelta(days=5), 1)

    def reserve(self, room_id: int = ALPINE) -> int:
        message_id = uuid4()
        with self.reservations.begin() as connection:
            new = NewReservation(member_id=1, room_id=room_id, stay=CHRISTMAS)
            reservation = reserved(connection, new, Cause(message_id))
            request = messages.room_reserve(reservation.id, room_id, CHRISTMAS, message_id)
            outbox.append(connection, [request])
        return reservation.id

    def change(self, reservation_id: int, into: Callable[[Reservation], Any], request: Any) -> None:
        message_id = uuid4()
        with self.reservations.begin() as connection:
            changed = into(store.lock(connection, [reservation_id])[reservation_id])
            store.save_transitions(connection, [(changed, Cause(message_id))])
            wanted = request(changed.id, changed.room_id, changed.stay, message_id)
            outbox.append(connection, [wanted])

    def cancel(self, reservation_id: int) -> None:
        self.change(reservation_id, model.cancel, messages.room_cancel)

    def deliver(self) -> None:
        """Bring the rooms what they are asked, then the reservations what the rooms answer."""
        rooms, doorbell = RoomsHandler(), Doorbell(self.reservations, "nobody")
        if requests := self._unread(self.reservations, list(rooms.topics)):
            with self.rooms.begin() as connection:
                rooms.apply(connection, [rooms.decode(request) for request in requests])
        results = ResultsHandler(doorbell)
        if answers := self._unread(self.rooms, list(results.topics)):
            with self.reservations.begin() as connection:
                results.apply(connection, [results.decode(answer) for answer in answers])

    def answer(self, reservation_id: int, answer: Answer, reason: str = "") -> None:
        """Let the rooms say what they should not."""
        with self.rooms.begin() as connection:
            result = messages.reservation_result(reservation_id, answer, reason)
            outbox.append(connection, [result])

    def relay(self, publish: Callable[[Sequence[Any]], object] | None = None) -> None:
        """Publish all that is committed, by the real relay or, with `publish`, in another way."""
        contexts: tuple[Context, ...] = ("reservations", "rooms")
        for url in {self.settings.database_of(context) for context in contexts}:
            engine = direct_engine(self.settings, url, "relay", "innbox_relay")
            with engine.connect() as connection:
                reader.prepare_session(connection)
                shard = reader.claim(connection, "test", lease_s=60)
                assert shard
                if publish:
                    reading = reader.read(connection, shard.cursor, shard.hashes, limit=1_000)
                    publish(reading.rows)
                    reader.save(connection, shard, reading.cursor, lease_s=60)
                else:
                    self._relay(connection, shard)
                reader.release_shard(connection, shard)

    def _relay(self, connection: Connection, shard: reader.Shard) -> None:
        config = relay_config(self.settings)
        with publisher_for(connection, shard, config, Health()) as publisher:
            relay_once(Work(connection, publisher, config, lambda: True), shard)

    def produce(self, topic: str, key: str, value: bytes, **headers: str | bytes | None) -> None:
        producer = Producer(self.settings.kafka)
        producer.produce(self.settings.kafka_prefix + topic, value, key, headers=headers)
        assert producer.flush(30) == 0

    def consume(self) -> None:
        """Have the consumer groups pass all that is published, whether they did anything or not."""
        admin, prefix = AdminClient(self.settings.kafka), self.settings.kafka_prefix
        for group, topics in GROUPS.items():
            places = [
                TopicPartition(prefix + topic, number)
                for topic in topics
                for number in range(self.settings.topic_partitions)
            ]
            latest = admin.list_offsets(dict.fromkeys(places, _END))
            ends = [
                TopicPartition(place.topic, place.partition, end.result(30).offset)
                for place, end in latest.items()
            ]
            passed = ConsumerGroupTopicPartitions(prefix + group, ends)
            [done] = admin.alter_consumer_group_offsets([passed]).values()
            done.result(30)

    def sql(self, statement: str, **values: object) -> Any:
        """Do by hand what no code of ours does."""
        with self.rooms.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.scalar() if result.returns_rows else None

    def _unread(self, engine: Engine, topics: list[str]) -> Sequence[Record]:
        after = self._read[topics[0]]
        with engine.connect() as connection:
            rows = connection.execute(UNREAD, {"position": after, "topics": topics}).all()
        if rows:
            self._read[topics[0]] = rows[-1].position
        return [Record(row.topic, 0, 0, row.key.encode(), row.value, row.headers) for row in rows]


def populate(world: World) -> World:
    world.open()
    for room_id in (ALPINE, ALPINE, ALPINE, SEASIDE):
        world.reserve(room_id)
    world.deliver()
    world.cancel(DORA)
    world.deliver()
    return world


@contextmanager
def a_world(settings: Settings) -> Iterator[World]:
    world = World(settings)
    try:
        yield world
    finally:
        world.reservations.dispose()
        world.rooms.dispose()


@pytest.fixture
def unpublished(settings: Settings) -> Iterator[World]:
    """Our four guests, all of them settled, and not one message relayed yet."""
    with a_world(settings) as world:
        yield populate(world)


@pytest.fixture
def world(unpublished: World) -> World:
    """Our four guests, and all there is to know of them in Kafka."""
    unpublished.relay()
    return unpublished


@pytest.fixture
def two_databases(settings: Settings, second_database_url: str) -> Iterator[World]:
    """The same world with the rooms in a database of their own."""
    apart = settings.model_copy(update={"rooms_database_url": second_database_url})
    create_topics(apart)
    with a_world(apart) as world:
        populate(world).relay()
        yield world


def seen(world: World) -> dict[str, list[str]]:
    """Which invariants verifying finds broken, and what it says about them."""
    findings = verify(world.settings).findings
    return {one.invariant: one.violations for one in findings if not one.holds}


def finding(verdict: Verdict, invariant: str) -> Finding:
    return next(one for one in verdict.findings if one.invariant == invariant)


def once(what: str, action: Callable[[], None]) -> Callable[[str, int, int | None], None]:
    """A report that acts, one time, when verifying reads `what`."""
    todo = [action]

    def report(reading: str, _done: int, _total: int | None) -> None:
        if reading == what and todo:
            todo.pop()()

    return report


# --- What is right


def test_a_world_that_keeps_its_promises_verifies(world: World) -> None:
    world.consume()

    verdict = verify(world.settings)

    assert [one.violations for one in verdict.findings if not one.holds] == []
    assert verdict.holds
    assert verdict.at_rest
    assert all(one.rows and one.how and not one.notes for one in verdict.findings)
    counts = verdict.counts
    assert (counts.confirmed, counts.rejected, counts.cancelled, counts.open) == (2, 1, 1, 0)
    assert (counts.messages, counts.records, counts.backlog) == (10, 10, 0)
    assert (counts.lost, counts.doubled, counts.oversold) == (0, 0, 0)


def test_a_verdict_can_be_written_as_json(world: World) -> None:
    told = json.loads(json.dumps(verify(world.settings).as_dict()))

    assert told["holds"] is True
    names = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I12", "I13"]
    assert [one["invariant"] for one in told["findings"]] == names


def test_two_databases_verify_as_one_does(two_databases: World) -> None:
    verdict = verify(two_databases.settings)

    assert verdict.holds
    assert verdict.counts.records == 10


def test_what_is_under_way_is_no_violation(world: World) -> None:
    """An open reservation is exempt, and a message that waits for its relay is not lost."""
    world.reserve(SEASIDE)

    verdict = verify(world.settings)

    assert verdict.holds
    assert not verdict.at_rest
    assert finding(verdict, "I2").notes == ["1 messages are committed and wait to be relayed"]
    assert finding(verdict, "I9").notes == ["1 reservations are open and exempt"]


def test_what_is_committed_and_relayed_while_verifying_reads_is_no_violation(world: World) -> None:
    def go_on() -> None:
        world.reserve(SEASIDE)
        world.deliver()
        world.relay()

    verdict = verify(world.settings, report=once("messages", go_on))

    assert verdict.holds
    assert (verdict.counts.messages, verdict.counts.records) == (10, 12)


def test_what_the_rooms_do_between_the_two_databases_is_no_violation(two_databases: World) -> None:
    def go_on() -> None:
        two_databases.cancel(ANNA)
        two_databases.deliver()
        two_databases.reserve()
        two_databases.deliver()
        two_databases.relay()

    verdict = verify(two_databases.settings, report=once("messages", go_on))

    assert [one.violations for one in verdict.findings if not one.holds] == []
    assert not verdict.at_rest


def test_a_repeated_record_is_told_and_no_violation(world: World) -> None:
    world.sql("UPDATE outbox.shard SET snapshot = '1:1:'")
    world.relay()

    verdict = verify(world.settings)

    assert verdict.holds
    assert verdict.counts.repeated_records == 10


def test_records_of_others_are_told_and_no_violation(world: World) -> None:
    world.produce(ROOM_RESERVE, "7", b"not ours", ce_source="/elsewhere")

    verdict = verify(world.settings)

    assert verdict.holds
    assert finding(verdict, "I2").notes == ["1 records are somebody else's"]


def test_records_of_an_aborted_transaction_are_not_there(world: World) -> None:
    """Nor does verifying wait for a last record where the last offset is the abort itself."""
    producer = Producer(world.settings.kafka | {"transactional.id": world.settings.kafka_prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    topic = world.settings.kafka_prefix + ROOM_RESERVE
    producer.produce(topic, b"{}", "7", headers={"ce_source": RESERVATIONS_SOURCE})
    producer.flush(30)
    producer.abort_transaction(30)

    verdict = verify(world.settings)

    assert verdict.holds
    assert verdict.counts.records == 10


def test_what_retention_dropped_from_the_outbox_is_exempt(unpublished: World) -> None:
    """Ten days go by. Anna's stay is then given up, and only her allocation remembers its nights."""
    world, then = unpublished, datetime.now(UTC) - timedelta(days=10)
    in_headers = "jsonb_set(headers::jsonb, '{ce_time}', to_jsonb(CAST(:then AS text)))::json"
    world.sql(
        f"UPDATE outbox.message SET created_at = CAST(:then AS timestamptz), headers = {in_headers}",
        then=then.isoformat(),
    )
    world.sql("UPDATE reservations.transition SET created_at = :then", then=then)
    world.relay()
    with world.rooms.begin() as connection:
        outbox.admin.ensure_partitions(connection, then.date(), days_ahead=10)
        outbox.admin.retire_partitions(connection, datetime.now(UTC), retention_days=7)
    world.cancel(ANNA)
    world.deliver()
    world.relay()

    verdict = verify(world.settings)

    assert [one.violations for one in verdict.findings if not one.holds] == []
    assert verdict.counts.messages == 2
    assert finding(verdict, "I1").notes == [
        "10 transitions are older than what the outbox keeps: exempt"
    ]
    assert finding(verdict, "I2").notes == [
        "10 records are older than what the outbox keeps: exempt"
    ]
    (note,) = finding(verdict, "I6").notes
    assert note.startswith("2 stays were taken before the oldest result kept")


def test_what_retention_dropped_from_kafka_is_exempt(world: World) -> None:
    names = [world.settings.kafka_prefix + topic for topic in TOPICS]
    admin = AdminClient(world.settings.kafka)
    ends = [
        TopicPartition(name, number, -1)
        for name in names
        for number in range(world.settings.topic_partitions)
    ]
    for deleted in admin.delete_records(ends).values():
        deleted.result(30)

    verdict = verify(world.settings)

    assert verdict.holds
    assert finding(verdict, "I2").notes == ["10 messages are older than what Kafka keeps: exempt"]


# --- I1


def test_i1_sees_a_transition_whose_message_is_gone(unpublished: World) -> None:
    unpublished.sql("DELETE FROM outbox.message WHERE position = 2")
    unpublished.relay()

    (violation,) = seen(unpublished).pop("I1")
    assert violation.startswith(f"reservation {BEN}, version 1 (PENDING): its message ")


def test_i1_sees_a_message_that_no_transition_made(world: World) -> None:
    with world.reservations.begin() as connection:
        request = messages.room_reserve(99, ALPINE, CHRISTMAS)
        outbox.append(connection, [request])
    world.relay()

    said = f"message {request.message_id} (room-reserve, reservation 99) belongs to no transition"
    assert seen(world) == {"I1": [said]}


def test_i1_sees_a_message_that_says_something_else(unpublished: World) -> None:
    unpublished.sql("UPDATE outbox.message SET key = '8' WHERE position = 1")
    unpublished.relay()

    (violation,) = seen(unpublished)["I1"]
    assert violation.startswith(f"reservation {ANNA}, version 1: its message ")


def test_i1_sees_a_change_without_a_transition(world: World) -> None:
    world.sql("UPDATE reservations.reservation SET version = 3 WHERE id = :anna", anna=ANNA)

    (violation,) = seen(world)["I1"]
    assert violation.startswith(f"reservation {ANNA} is CONFIRMED, version 3, but")


def test_i1_sees_what_no_answer_of_the_rooms_settled(world: World) -> None:
    world.sql(
        "UPDATE reservations.transition SET message_id = :unknown "
        "WHERE reservation_id = :clara AND version = 2",
        unknown=UUID(int=0),
        clara=CLARA,
    )

    said = f"reservation {CLARA}, version 2 (REJECTED): the rooms gave no result {UUID(int=0)}"
    assert seen(world) == {"I1": [said]}


# --- I2 and I8


def test_i2_sees_a_message_that_was_passed_over(world: World) -> None:
    world.reserve(SEASIDE)
    world.relay(lambda _rows: None)

    verdict = verify(world.settings)

    assert verdict.counts.lost == 1
    position = world.sql("SELECT max(position) FROM outbox.message")
    (violation,) = finding(verdict, "I2").violations
    assert violation.endswith(
        f"(room-reserve, key 8, position {position}) is relayed but not in Kafka"
    )


def test_the_first_violations_are_named_or_all(engine: Engine, settings: Settings) -> None:
    system = System(engine, settings)
    system.append(*(a_message() for _ in range(101)))
    system.relay(lose)

    for named_max, expected in ((100, 100), (None, 101)):
        found = finding(verify(settings, named_max=named_max), "I2")
        assert (len(found.violations), found.violations_count) == (expected, 101)


def test_what_an_operator_skipped_is_not_lost(world: World) -> None:
    world.reserve(SEASIDE)
    world.relay(lambda _rows: None)
    world.sql("""
        INSERT INTO outbox.dead_letter (message_id, topic, key, value, headers, position, created_at,
                                        reason, attempts, blocked_at, skipped_by)
        SELECT message_id, topic, key, value, headers, position, created_at,
               'too large', 1, now(), 'an operator'
        FROM outbox.message ORDER BY position DESC LIMIT 1
        RETURNING id
    """)

    assert verify(world.settings).counts.lost == 0


def test_i2_sees_a_record_that_was_never_committed(world: World) -> None:
    ghost, value = str(uuid4()), messages.room_reserve(99, ALPINE, CHRISTMAS).value
    world.produce(ROOM_RESERVE, "7", value, ce_id=ghost, ce_source=RESERVATIONS_SOURCE)

    (violation,) = seen(world).pop("I2")
    assert violation.startswith(f"record {ghost} of room-reserve, partition ")
    assert violation.endswith("(reservation 99) has no message")


def test_i2_sees_a_record_that_was_altered(world: World) -> None:
    known = str(world.sql("SELECT message_id FROM outbox.message WHERE position = 1"))
    world.produce(ROOM_RESERVE, "7", b"{}", ce_id=known, ce_source=RESERVATIONS_SOURCE)

    (violation,) = seen(world)["I2"]
    assert violation.startswith(f"record {known} of room-reserve, partition ")
    assert violation.endswith("differs from its message (room-reserve, key 7)")


def test_i8_sees_messages_of_a_reservation_that_changed_places(world: World) -> None:
    def backwards(rows: Sequence[Any]) -> None:
        for _, topic, key, value, headers, *_ in reversed(rows):
            world.produce(topic, key, value, **reader.decode_headers(headers))

    eva = world.reserve()
    world.change(eva, model.redrive, messages.room_reserve)
    world.relay(backwards)

    broken = seen(world)

    (violation,) = broken.pop("I8")
    assert violation.startswith(f"reservation {eva}: message ")
    assert broken == {}


def test_i8_does_not_hold_against_the_relay_what_a_mend_published_late(world: World) -> None:
    def lost_and_mended(rows: Sequence[Any]) -> None:
        first, second = rows
        for (_, topic, key, value, headers, *_), mark in (
            (second, {}),
            (first, {MEND_HEADER: "1"}),
        ):
            world.produce(topic, key, value, **reader.decode_headers(headers) | mark)

    eva = world.reserve()
    world.change(eva, model.redrive, messages.room_reserve)
    world.relay(lost_and_mended)

    assert seen(world) == {}


# --- I3


def test_i3_sees_both_answers(world: World) -> None:
    world.answer(ANNA, Answer.FAILURE, "SOLD_OUT")
    world.relay()

    assert seen(world) == {"I3": [f"reservation {ANNA} was answered both SUCCESS and FAILURE"]}
    assert verify(world.settings).counts.doubled == 1


def test_i3_sees_a_stay_that_was_held_after_its_release(world: World) -> None:
    world.answer(DORA, Answer.SUCCESS)
    world.relay()

    assert seen(world) == {"I3": [f"reservation {DORA} was answered SUCCESS after CANCEL"]}


def test_i3_sees_an_effect_that_was_not_asked_for(world: World) -> None:
    world.sql("UPDATE rooms.allocation SET room_id = 9 WHERE reservation_id = :clara", clara=CLARA)

    (violation,) = seen(world)["I3"]
    assert violation.startswith(f"reservation {CLARA} is for room 7 from 2026-12-24 to 2026-12-27")


# --- I4 to I7


def test_i4_sees_a_night_that_is_off_by_one(world: World) -> None:
    world.sql("UPDATE rooms.room_night SET taken = 1 WHERE room_id = 7 AND night = '2026-12-25'")

    assert seen(world) == {
        "I4": ["room 7, night 2026-12-25: taken 1, held by 2 allocations"],
        "I6": ["room 7, night 2026-12-25: taken 1, but the messages leave 2"],
    }


def test_i5_sees_a_night_beyond_its_capacity_and_the_missing_guard(world: World) -> None:
    world.sql("ALTER TABLE rooms.room_night DROP CONSTRAINT ck_room_night_taken_within_capacity")
    world.sql("UPDATE rooms.room_night SET capacity = 1 WHERE room_id = 7 AND night = '2026-12-24'")

    assert seen(world) == {
        "I5": [
            "room 7, night 2026-12-24: taken 2 of 1",
            "the constraint that keeps taken within capacity is missing or not validated",
        ]
    }
    assert verify(world.settings).counts.oversold == 1


def test_i5_sees_a_guard_that_looks_away(world: World) -> None:
    world.sql("ALTER TABLE rooms.room_night DROP CONSTRAINT ck_room_night_taken_within_capacity")
    world.sql(
        "ALTER TABLE rooms.room_night ADD CONSTRAINT ck_room_night_taken_within_capacity "
        "CHECK (0 <= taken AND taken <= capacity) NOT VALID"
    )

    assert list(seen(world)) == ["I5"]


def test_i5_sees_a_night_that_was_once_beyond_its_capacity(world: World) -> None:
    """Nobody is there now; but Dora was, on a night that never had a room to give."""
    world.sql(
        "UPDATE rooms.room_night SET capacity = 0, capacity_peak = 0 "
        "WHERE room_id = 8 AND night = '2026-12-26'"
    )

    said = "room 8, night 2026-12-26: the results took 1, and there were never more than 0"
    assert seen(world) == {"I5": [said]}


def test_i6_sees_a_cancel_that_gave_no_night_back(world: World) -> None:
    """The bug of the system before this one: [check-in, check-in) has no nights."""
    world.sql(
        "UPDATE rooms.room_night SET taken = 1 "
        "WHERE room_id = 8 AND night BETWEEN '2026-12-24' AND '2026-12-26'"
    )

    broken = seen(world)

    assert broken.pop("I6") == [
        f"room 8, night 2026-12-{day}: taken 1, but the messages leave 0" for day in (24, 25, 26)
    ]
    assert list(broken) == ["I4"]


def test_i7_sees_a_stay_with_a_hole(world: World) -> None:
    world.sql("DELETE FROM rooms.room_night WHERE room_id = 7 AND night = '2026-12-26'")

    assert seen(world) == {
        "I7": [f"reservation {id_} holds room 7 without night 2026-12-26" for id_ in (ANNA, BEN)]
    }


# --- I9 and I12


def test_i9_sees_a_confirmed_reservation_that_holds_nothing(world: World) -> None:
    world.sql(
        "UPDATE rooms.allocation SET state = 'RELEASED', cancel_message_id = :unknown "
        "WHERE reservation_id = :anna",
        unknown=UUID(int=0),
        anna=ANNA,
    )
    world.sql("UPDATE rooms.room_night SET taken = taken - 1 WHERE room_id = 7 AND taken > 0")
    world.answer(ANNA, Answer.CANCEL)
    world.relay()

    assert seen(world) == {"I9": [f"reservation {ANNA} is CONFIRMED, its allocation is RELEASED"]}
    assert verify(world.settings).counts.lost == 1


def test_i9_sees_a_room_that_is_held_for_nobody(world: World) -> None:
    world.sql("DELETE FROM reservations.transition WHERE reservation_id = :ben", ben=BEN)
    world.sql("DELETE FROM reservations.reservation WHERE id = :ben", ben=BEN)

    assert seen(world)["I9"] == [f"reservation {BEN} holds room 7 but is missing"]


def test_i12_sees_a_terminal_status_that_changed_back(world: World) -> None:
    def revive(reservation: Reservation) -> Reservation:
        assert reservation.status is Status.CANCELLED
        return model._next(reservation, Status.CANCELLING)

    world.change(DORA, revive, messages.room_cancel)
    world.relay()

    assert seen(world) == {"I12": [f"reservation {DORA}, version 5: from CANCELLED to CANCELLING"]}


# --- I13


def test_i13_sees_what_the_consumers_passed_over(world: World) -> None:
    """A request, a cancellation and a result of which nothing came."""
    eva, felix = world.reserve(SEASIDE), world.reserve(SEASIDE)
    world.cancel(ANNA)
    world.answer(felix, Answer.SUCCESS)
    world.relay()
    assert "I13" not in seen(world)

    world.consume()

    verdict = verify(world.settings)
    said = finding(verdict, "I13").violations
    assert sorted(line.partition("(")[2] for line in said) == [
        f"reservation {ANNA}) was passed over: the allocation is HELD",
        f"reservation {eva}) was passed over: the reservation has no allocation",
        f"reservation {felix}) was passed over: the reservation has no allocation",
        f"reservation {felix}) was passed over: the reservation is PENDING",
    ]
    assert verdict.counts.lost == 4


def test_what_is_to_be_consumed_or_was_set_aside_is_no_violation(world: World) -> None:
    """However a dead letter was decided: it is kept, and was seen."""
    world.consume()
    world.produce(ROOM_RESERVE, "7", b"rubbish")
    assert finding(verify(world.settings), "I13").notes == [
        "1 records are published and wait to be consumed"
    ]

    world.consume()
    (violation,) = finding(verify(world.settings), "I13").violations
    assert "(reservation unreadable) was passed over" in violation
    partition, offset = (int(part) for part in re.findall(r"(?:partition|offset) (\d+)", violation))
    world.sql(
        """
        INSERT INTO consumers.dead_letter
            (group_id, topic, partition, "offset", headers, reason, attempts, state, decided_at)
        VALUES ('reservation-group', :topic, :partition, :offset, '{}', 'poison', 1, 'DISCARDED', now())
        """,
        topic=ROOM_RESERVE,
        partition=partition,
        offset=offset,
    )
    assert finding(verify(world.settings), "I13").violations == []


def test_an_audit_names_what_the_consumers_passed_over(world: World) -> None:
    """On request: the audit itself knows nothing of rooms."""
    eva = world.reserve(SEASIDE)
    world.relay()
    world.consume()

    command = ["outbox", "audit", "--consumed", "--json"]
    environment = as_environment(world.settings)
    done = CliRunner().invoke(cli, command, env=environment, standalone_mode=False)

    told = json.loads(done.stdout)
    assert (done.return_value, told["holds"]) == (1, False)
    assert [(one["reservation_id"], one["found"]) for one in told["never_consumed"]] == [
        (eva, "the reservation has no allocation")
    ]
    before = datetime(2020, 1, 1, tzinfo=UTC)
    assert find_unconsumed(world.settings, silent, until=before) == []


@pytest.mark.parametrize(
    ("code", "is_waited_for"),
    [
        (KafkaError.NOT_COORDINATOR, True),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, True),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, False),
    ],
)
def test_a_coordinator_that_is_only_just_elected_is_waited_for(
    code: int, *, is_waited_for: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cluster where this is the first group that is asked for; what will not pass is told."""

    class New(Consumer):
        refusals = 2

        def committed(self, *asked: Any, **bounds: Any) -> Any:
            if New.refusals:
                New.refusals -= 1
                raise KafkaException(KafkaError(code))
            return super().committed(*asked, **bounds)

    monkeypatch.setattr(consumption, "Consumer", New)
    if is_waited_for:
        assert verify(world.settings).holds
        assert New.refusals == 0
    else:
        with pytest.raises(KafkaException):
            verify(world.settings)


@pytest.mark.unit
@pytest.mark.parametrize("package", [ops, relay, consumers])
def test_no_administrator_is_asked_for_the_offsets_of_a_group(package: ModuleType) -> None:
    """Librdkafka 2.16 ends the process if the coordinator is just loading its groups."""
    (root,) = map(Path, package.__path__)
    asking = [
        path for path in root.rglob("*.py") if "list_consumer_group_offsets" in path.read_text()
    ]
    assert asking == []
