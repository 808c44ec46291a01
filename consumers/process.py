"""The consumers as processes: `innbox rooms` and `innbox results`.

Each starts to work when its database has the schema and the topics, and reports until then what it waits
for.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from threading import Event
from typing import Any

from sqlalchemy import Engine

import outbox
from consumers import tables
from consumers.handling import Handler
from consumers.key_expiry import delete_old_keys_once
from consumers.redrive import redrive_once
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from consumers.row_security import require_all_rows
from consumers.runner import Runner
from domain.idempotency import RESERVATION_KEYS, ROOM_KEYS
from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE
from domain.reservations import tables as reservations_tables
from domain.reservations.store import SETTLED_CHANNEL
from domain.rooms import tables as rooms_tables
from innbox_process.brokers import KafkaProbe
from innbox_process.database import pooled_engine
from innbox_process.health import Health
from innbox_process.probing import DatabaseProbe, ready_process
from innbox_process.schedule import scheduled
from innbox_process.shutdown import stop_on_signals
from outbox import Doorbell, JobLease, install_doorbell
from runtime.settings import Role, Settings

ROOMS_SCHEMA = (rooms_tables.metadata, tables.metadata, outbox.metadata)
RESULTS_SCHEMA = (reservations_tables.metadata, tables.metadata, outbox.metadata)
EXPIRY_EVERY_S = 3_600.0
_DAY_S = 86_400.0
_ROOMS: Role = "innbox_rooms"
_RESULTS: Role = "innbox_results"


def run_rooms(settings: Settings) -> None:
    """Apply requests to the inventory, and delete old keys of its changes, until SIGTERM."""
    url, role, handler = settings.rooms_database_url, _ROOMS, RoomsHandler()
    engine = pooled_engine(settings, url, "rooms", role)
    probe = DatabaseProbe(settings, url, role, schema=ROOMS_SCHEMA, topics=[RESERVATION_RESULT])
    forget = partial(delete_old_keys_once, engine, ROOM_KEYS, settings.idempotency_days * _DAY_S)
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        _ready(settings, engine, probe, handler, stop) as health,
        closing(install_doorbell(engine, interval_ms=settings.doorbell_ms)),
        scheduled(JobLease(engine, "forget-room-keys"), EXPIRY_EVERY_S, forget),
    ):
        Runner(engine, handler, settings, health, stop).run()
    engine.dispose()


def run_results(settings: Settings) -> None:
    """Settle reservations, and re-send requests that wait too long, until SIGTERM."""
    url, role = settings.reservations_database_url, _RESULTS
    engine = pooled_engine(settings, url, "results", role)
    requests = [ROOM_RESERVE, ROOM_CANCEL]
    probe = DatabaseProbe(settings, url, role, schema=RESULTS_SCHEMA, topics=requests)
    for one in (engine, probe.engine):
        require_all_rows(one)
    redrive = partial(redrive_once, engine, settings.redrive_after_s)
    forget = partial(
        delete_old_keys_once, engine, RESERVATION_KEYS, settings.idempotency_days * _DAY_S
    )
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        closing(Doorbell(engine, SETTLED_CHANNEL, interval_ms=settings.doorbell_ms)) as settled,
        _ready(settings, engine, probe, ResultsHandler(settled), stop) as health,
        closing(install_doorbell(engine, interval_ms=settings.doorbell_ms)),
        scheduled(JobLease(engine, "redrive"), settings.redrive_every_s, redrive),
        scheduled(JobLease(engine, "forget-keys"), EXPIRY_EVERY_S, forget),
    ):
        Runner(engine, ResultsHandler(settled), settings, health, stop).run()
    engine.dispose()


@contextmanager
def retrying(engine: Engine, settings: Settings) -> Iterator[Mapping[str, Handler[Any]]]:
    """Yield the handlers of both groups, to retry dead letters of this database with.

    At the block's end the relay and waiting requests are woken, which wait for what a retry changes.
    """
    with (
        closing(install_doorbell(engine, interval_ms=settings.doorbell_ms)),
        closing(Doorbell(engine, SETTLED_CHANNEL, interval_ms=settings.doorbell_ms)) as settled,
    ):
        handlers: tuple[Handler[Any], ...] = (RoomsHandler(), ResultsHandler(settled))
        yield {handler.group: handler for handler in handlers}


def _ready(
    settings: Settings, engine: Engine, probe: DatabaseProbe, handler: Handler[Any], stop: Event
) -> AbstractContextManager[Health]:
    kafka = KafkaProbe(settings.kafka, [settings.kafka_prefix + topic for topic in handler.topics])
    return ready_process(engine, probe, kafka, settings.host, settings.health_port, stop)
