"""The relay as a process: `innbox-relay run`.

It begins when its database has the outbox, whenever that is, and says until then what it waits for.
"""

from functools import partial

import outbox
from innbox_process import garbage
from innbox_process.brokers import KafkaProbe
from innbox_process.database import direct_engine
from innbox_process.probing import DatabaseProbe, ready_process
from innbox_process.schedule import scheduled
from innbox_process.shutdown import stop_on_signals
from outbox import JobLease
from relay.config import RelayConfig
from relay.housekeeping import maintain_partitions_once
from relay.relay import Relay


def run(config: RelayConfig) -> None:
    """Relay the outbox of one database until SIGTERM."""
    database, url, role = config.database, config.database_url, config.role
    engine = direct_engine(database, url, "relay", role)
    probe = DatabaseProbe(database, url, role, schema=[outbox.metadata])
    kafka = KafkaProbe(config.kafka, config.needed_topics)
    lease = JobLease(engine, "outbox-housekeeping")
    maintain = partial(maintain_partitions_once, engine, config)
    with (
        stop_on_signals(config.shutdown_s) as stop,
        ready_process(engine, probe, kafka, config.host, config.health_port, stop) as health,
        scheduled(lease, config.housekeeping_s, maintain),
    ):
        garbage.search_less()
        Relay(engine, config, health, stop).run()
    engine.dispose()
