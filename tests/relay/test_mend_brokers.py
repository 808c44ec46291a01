"""A broker is killed and its logs are cut: one command publishes again what it lost, and sagas end."""

import json
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy import Engine

from domain.messages import ROOM_CANCEL, ROOM_RESERVE, TOPICS
from domain.reservations.model import Status
from ops import local
from ops.environment import as_environment
from ops.relay_config import audit_sources
from ops.topics import create_topics
from ops.verify import verify
from relay.audit import Audit, Window, audit
from runtime.settings import Settings
from tests.support.broker_logs import cut_half
from tests.support.brokers import kill_broker, start_broker
from tests.support.commands import innbox
from tests.support.kafka_reader import ids, read_topics
from tests.support.relays import a_relay, is_wholly_relayed
from tests.support.saga import (
    ALPINE,
    SEASIDE,
    a_reservation,
    cancel_reservation,
    open_rooms,
    overheld,
    statuses,
)
from tests.support.waiting import eventually
from tests.support.whole_saga import everything

PATIENCE_S = 120.0
OPEN = {Status.PENDING, Status.CANCELLING}


def ends_of(settings: Settings, topic: str) -> dict[int, int]:
    consumer = Consumer(settings.kafka | {"group.id": "ends"})
    name = settings.kafka_prefix + topic
    found = {
        part: consumer.get_watermark_offsets(TopicPartition(name, part), timeout=30)[1]
        for part in range(settings.topic_partitions)
    }
    consumer.close()
    return found


def in_topics(settings: Settings) -> list[str]:
    """The ids of all records."""
    count = sum(sum(ends_of(settings, topic).values()) for topic in TOPICS)
    return ids(read_topics(settings, TOPICS, until=lambda found: len(found) >= count))


def audited(settings: Settings) -> Audit:
    return audit(audit_sources(settings), Window(), lambda *_: None)


def relay_all(engine: Engine, settings: Settings) -> None:
    with a_relay(settings):
        eventually(lambda: is_wholly_relayed(engine), deadline_s=PATIENCE_S)


@pytest.mark.proof
def test_what_a_killed_broker_lost_is_published_again_and_every_saga_ends(
    engine: Engine, settings: Settings, data: Path
) -> None:
    """Exactly what is gone is named and published; newer messages of the same rooms came before it."""
    with local.running(data, parts=["kafka"], durable=False) as servers:
        own = settings.model_copy(
            update={"kafka_bootstrap_servers": servers.kafka_bootstrap_servers}
        )
        create_topics(own)
        open_rooms(engine, capacity=20)
        with everything(own):
            early = [a_reservation(engine).id for _ in range(6)]
            eventually(lambda: Status.PENDING not in statuses(engine, early), deadline_s=PATIENCE_S)
        before = {topic: ends_of(own, topic) for topic in (ROOM_RESERVE, ROOM_CANCEL)}
        for id_ in early:
            cancel_reservation(engine, id_)
        late = [a_reservation(engine, room_id=room).id for room in (ALPINE, SEASIDE) * 30]
        relay_all(engine, own)
        published = in_topics(own)

        kill_broker(data)
        for topic, ends in before.items():
            cut_half(data, own.kafka_prefix + topic, ends)
        start_broker(data)

        lost = set(published) - set(in_topics(own))
        assert 2 < len(lost) < len(late) + len(early)
        late += [a_reservation(engine, room_id=room).id for room in (ALPINE, SEASIDE)]
        relay_all(engine, own)
        found = audited(own)
        assert {one.message_id for one in found.findings} == lost
        assert {one.kind for one in found.findings} == {"missing"}

        environment = as_environment(own)
        mended = innbox(
            "outbox", "audit", "--mend", "--yes", "--json", data=data, environment=environment
        )
        assert mended.returncode == 0, mended.stderr
        assert json.loads(mended.stdout)["mend"]["runs"][0]["sent"] == len(lost)
        once = in_topics(own)
        assert len(once) == len(set(once)) == len(published) + 2
        assert audited(own).holds

        with everything(own):
            eventually(
                lambda: not OPEN & set(statuses(engine, [*early, *late])), deadline_s=PATIENCE_S
            )
            eventually(lambda: is_wholly_relayed(engine), deadline_s=PATIENCE_S)
        verdict = verify(own)
        assert [one.violations for one in verdict.findings if not one.holds] == []
        after = audited(own)
        assert after.holds
        assert sum(topic.republished for topic in after.topics) == len(lost)
        with engine.connect() as connection:
            assert not overheld(connection)
