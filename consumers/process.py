"""The consumers as processes: `innbox rooms` and `innbox results`.

Each starts to work when its database has the schema and the topics, and reports until then what it waits
for.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Engine

import outbox
from consumers import tables
from consumers.handling import Handler
from consumers.redrive import redrive_once
from consumers.results import ResultsHandler
from consumers.rooms import RoomsHandler
from consumers.row_security import require_all_rows
from consumers.runner import Runner
from domain.idempotency import RESERVATION_KEYS, ROOM_KEYS, IdempotencyKeys
from domain.messages import RESERVATION_RESULT, ROOM_CANCEL, ROOM_RESERVE
from domain.reservations import tables as reservations_tables
from domain.reservations.store import SETTLED_CHANNEL
from domain.rooms import tables as rooms_tables
from innbox_process import garbage
from innbox_process.brokers import KafkaProbe
from innbox_process.database import pooled_engine
from innbox_process.probing import DatabaseProbe, ready_process
from innbox_process.schedule import scheduled
from innbox_process.shutdown import stop_on_signals
from outbox import Doorbell, JobLease, install_doorbell
from runtime.settings import Role, Settings

ROOMS_SCHEMA = (rooms_tables.metadata, tables.metadata, outbox.metadata)
RESULTS_SCHEMA = (reservations_tables.metadata, tables.metadata, outbox.metadata)
EXPIRY_EVERY_S = 3_600.0
# Keys per transaction: to delete so many takes far less than a statement may take.
KEYS_CHUNK_SIZE = 10_000
_DAY_S = 86_400.0
_ROOMS: Role = "innbox_rooms"
_RESULTS: Role = "innbox_results"
# A batch's statements reach their rows by keys. With few rows, or none that are analysed yet, the planner
# would read whole tables instead, which grow; and it would plan each statement of each batch anew.
BY_KEYS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
# How often it runs, and what.
_Job = tuple[float, Callable[[], object]]


def run_rooms(settings: Settings) -> None:
    """Apply requests to the inventory, and delete old keys of its changes, until SIGTERM."""
    url, role = settings.rooms_database_url, _ROOMS
    engine = pooled_engine(settings, url, "rooms", role, options=BY_KEYS)
    probe = DatabaseProbe(settings, url, role, schema=ROOMS_SCHEMA, topics=[RESERVATION_RESULT])
    jobs = {"forget-room-keys": _expiry(engine, ROOM_KEYS, settings)}
    _run(settings, engine, probe, RoomsHandler(), jobs)


def run_results(settings: Settings) -> None:
    """Settle reservations, and re-send requests that wait too long, until SIGTERM."""
    url, role, requests = settings.reservations_database_url, _RESULTS, [ROOM_RESERVE, ROOM_CANCEL]
    engine = pooled_engine(settings, url, "results", role, options=BY_KEYS)
    probe = DatabaseProbe(settings, url, role, schema=RESULTS_SCHEMA, topics=requests)
    for one in (engine, probe.engine):
        require_all_rows(one)
    redrive = partial(redrive_once, engine, settings.redrive_after_s)
    jobs: dict[str, _Job] = {
        "redrive": (settings.redrive_every_s, redrive),
        "forget-keys": _expiry(engine, RESERVATION_KEYS, settings),
    }
    settled = _settled(engine, settings)
    _run(settings, engine, probe, ResultsHandler(settled), jobs, settled)


@contextmanager
def retrying(engine: Engine, settings: Settings) -> Iterator[Mapping[str, Handler[Any]]]:
    """Yield the handlers of both groups, to retry dead letters of this database with.

    At the block's end the relay and waiting requests are woken, which wait for what a retry changes.
    """
    with (
        closing(
            install_doorbell(engine, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms)
        ),
        closing(_settled(engine, settings)) as settled,
    ):
        handlers: tuple[Handler[Any], ...] = (RoomsHandler(), ResultsHandler(settled))
        yield {handler.group: handler for handler in handlers}


def delete_old_keys_once(engine: Engine, keys: IdempotencyKeys, older_than_s: float) -> int:
    """Delete the idempotency keys of requests older than this, in chunks; returns how many.

    They are kept for days, as long as a client may repeat a request.
    """
    deleted = 0
    while True:
        with engine.begin() as connection:
            chunk = keys.forget(connection, older_than_s, KEYS_CHUNK_SIZE)
        deleted += chunk
        if chunk < KEYS_CHUNK_SIZE:
            return deleted


def _run(
    settings: Settings,
    engine: Engine,
    probe: DatabaseProbe,
    handler: Handler[Any],
    jobs: Mapping[str, _Job],
    *doorbells: Doorbell,
) -> None:
    """Run a handler, its timed jobs and its doorbells, from when its database is ready until SIGTERM."""
    kafka = KafkaProbe(settings.kafka, [settings.kafka_prefix + topic for topic in handler.topics])
    host, port = settings.host, settings.health_port
    with (
        stop_on_signals(settings.shutdown_s) as stop,
        ready_process(engine, probe, kafka, host, port, stop) as health,
        ExitStack() as stack,
    ):
        for doorbell in (
            install_doorbell(
                engine, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms
            ),
            *doorbells,
        ):
            stack.enter_context(closing(doorbell))
        for name, (every_s, job) in jobs.items():
            stack.enter_context(scheduled(JobLease(engine, name), every_s, job))
        garbage.search_less()
        Runner(engine, handler, settings, health, stop).run()
    engine.dispose()


def _expiry(engine: Engine, keys: IdempotencyKeys, settings: Settings) -> _Job:
    older_than_s = settings.idempotency_days * _DAY_S
    return EXPIRY_EVERY_S, partial(delete_old_keys_once, engine, keys, older_than_s)


def _settled(engine: Engine, settings: Settings) -> Doorbell:
    """Return what wakes the requests that wait for reservations."""
    return Doorbell(
        engine, SETTLED_CHANNEL, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms
    )
