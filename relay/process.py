"""The relay as a process: `innbox relay`."""

from contextlib import closing
from functools import partial

from outbox import JobLease
from relay.housekeeping import keep_house_once
from relay.sharing import Relay
from runtime.database import direct_engine
from runtime.health import Health, HealthServer
from runtime.schedule import scheduled
from runtime.settings import Settings
from runtime.shutdown import stop_on_signals


def run(settings: Settings) -> None:
    """Relay the outbox of one database until SIGTERM."""
    url = settings.database_of(settings.relay_context)
    engine = direct_engine(settings, url, "relay", "innbox_relay")
    health = Health(parts=("database", "kafka"))
    keep_house = partial(keep_house_once, engine, settings)
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        closing(HealthServer(health, settings.host, settings.health_port)),
        scheduled(JobLease(engine, "outbox-housekeeping"), settings.housekeeping_s, keep_house),
    ):
        Relay(engine, settings, health, stop).run()
    engine.dispose()
