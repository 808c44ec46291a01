"""The relay as a process: `innbox relay`.

It begins when its database has the outbox, whenever that is, and says until then what it waits for.
"""

from collections.abc import Sequence
from contextlib import closing
from functools import partial

import outbox
from outbox import JobLease
from relay.cursors import CURSOR_TOPIC
from relay.housekeeping import maintain_partitions_once
from relay.sharing import Relay
from runtime.brokers import KafkaProbe
from runtime.database import Role, direct_engine
from runtime.health import Health, HealthServer, hung_s
from runtime.probing import CommitProbe, DatabaseProbe, await_ready, probing, refuse_unconfirmed
from runtime.schedule import scheduled
from runtime.settings import Settings
from runtime.shutdown import stop_on_signals

_ROLE: Role = "innbox_relay"


def run(settings: Settings, topics: Sequence[str]) -> None:
    """Relay the outbox of one database until SIGTERM; the topics are those that it is for."""
    url = settings.database_of(settings.relay_context)
    engine = direct_engine(settings, url, "relay", _ROLE)
    health = Health(parts=("kafka",), beat_s_max=hung_s(settings))
    probe = DatabaseProbe(settings, url, _ROLE, schema=[outbox.metadata])
    commits = CommitProbe(settings, url, _ROLE, health)
    refuse_unconfirmed(engine, commits.check)
    kafka = KafkaProbe(settings.kafka, _needed(settings, topics))
    maintain = partial(maintain_partitions_once, engine, settings)
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        closing(HealthServer(health, settings.host, settings.health_port)),
        probing(health, [probe, commits, kafka]),
    ):
        await_ready(health, probe.part, stop)
        lease = JobLease(engine, "outbox-housekeeping")
        with scheduled(lease, settings.housekeeping_s, maintain):
            Relay(engine, settings, health, stop).run()
    engine.dispose()


def _needed(settings: Settings, topics: Sequence[str]) -> list[str]:
    cursors = [CURSOR_TOPIC] if settings.relay_mode == "exactly-once" else []
    return [settings.kafka_prefix + topic for topic in (*topics, *cursors)]
