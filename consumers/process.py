"""The consumers as processes: `innbox rooms` and `innbox results`."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from threading import Event
from typing import Any

from sqlalchemy import Engine

from consumers.handling import Handler
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from consumers.runner import Runner
from consumers.sight import must_see_all
from consumers.timeouts import forget_keys_once, redrive_once
from domain.idempotency import RESERVATION_KEYS, ROOM_KEYS
from domain.reservations.store import SETTLED_CHANNEL
from outbox import Doorbell, JobLease, install_doorbell
from runtime.database import pooled_engine
from runtime.health import Health, HealthServer
from runtime.schedule import scheduled
from runtime.settings import Settings
from runtime.shutdown import stop_on_signals

FORGET_EVERY_S = 3_600.0
_DAY_S = 86_400.0


def run_rooms(settings: Settings) -> None:
    """Apply requests to the inventory, and forget old keys of its changes, until SIGTERM."""
    url = settings.rooms_database_url
    engine = pooled_engine(settings, url, "rooms", "innbox_rooms")
    forget = partial(forget_keys_once, engine, ROOM_KEYS, settings.idempotency_days * _DAY_S)
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        closing(install_doorbell(engine, interval_ms=settings.doorbell_ms)),
        scheduled(JobLease(engine, "forget-room-keys"), FORGET_EVERY_S, forget),
    ):
        _serve(engine, RoomsHandler(), settings, stop)


def run_results(settings: Settings) -> None:
    """Settle reservations, and ask again for those that wait too long, until SIGTERM."""
    url = settings.reservations_database_url
    engine = pooled_engine(settings, url, "results", "innbox_results")
    must_see_all(engine)
    redrive = partial(redrive_once, engine, settings.redrive_after_s)
    forget = partial(forget_keys_once, engine, RESERVATION_KEYS, settings.idempotency_days * _DAY_S)
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        closing(install_doorbell(engine, interval_ms=settings.doorbell_ms)),
        closing(Doorbell(engine, SETTLED_CHANNEL, interval_ms=settings.doorbell_ms)) as settled,
        scheduled(JobLease(engine, "redrive"), settings.redrive_every_s, redrive),
        scheduled(JobLease(engine, "forget-keys"), FORGET_EVERY_S, forget),
    ):
        _serve(engine, ResultsHandler(settled), settings, stop)


@contextmanager
def retrying(engine: Engine, settings: Settings) -> Iterator[Mapping[str, Handler[Any]]]:
    """Give the handlers of both groups, to retry dead letters of this database with.

    Those who wait for what a retry changes (the relay, the members) are woken at the block's end.
    """
    with (
        closing(install_doorbell(engine, interval_ms=settings.doorbell_ms)),
        closing(Doorbell(engine, SETTLED_CHANNEL, interval_ms=settings.doorbell_ms)) as settled,
    ):
        handlers: tuple[Handler[Any], ...] = (RoomsHandler(), ResultsHandler(settled))
        yield {handler.group: handler for handler in handlers}


def _serve(engine: Engine, handler: Handler[Any], settings: Settings, stop: Event) -> None:
    health = Health(parts=("database", "kafka"))
    with closing(HealthServer(health, settings.host, settings.health_port)):
        Runner(engine, handler, settings, health, stop).run()
    engine.dispose()
