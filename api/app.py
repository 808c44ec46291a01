"""The API put together: what each part is given is said here and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from litestar import Litestar, Router

from api import health
from api.databases import ROLE, Database, Databases, databases_of
from api.identity.auth import members_only, scope_granted
from api.identity.jwks import Jwks
from api.identity.rate_limit import RateLimiter
from api.identity.tokens import StaticKey, Tokens
from api.inventory import ActiveUploads, inventory_routes
from api.middleware import errors
from api.middleware.hosts import for_allowed_hosts
from api.middleware.observability import observed
from api.middleware.options import name_all_methods
from api.openapi.document import openapi_config
from api.operations import operation_routes
from api.problem_pages import problem_routes
from api.requests.strictness import known_parameters, one_line_each
from api.reservations import Dependencies, Streams, listening, reservation_routes
from api.reservations.appending import AsyncDoorbell, TopicLimits
from api.reservations.watchers import ReservationWatchers
from api.rooms import Dependencies as RoomDependencies
from api.rooms import room_routes
from domain.reservations.reserve import reserve_sql
from domain.reservations.store import SETTLED_CHANNEL
from innbox_process.bounds import answer_s_max
from innbox_process.database import url_in_role
from innbox_process.health import Health, hung_s
from outbox import Doorbell, append_within, install_doorbell
from runtime.pipeline import PipelinePool
from runtime.settings import Settings

Task = Callable[[], Coroutine[Any, Any, None]]

# One for the subscriptions that are woken, one for the poll; a new stream uses either for a moment.
_READS_AT_ONCE = 2


def create_app(settings: Settings) -> Litestar:
    """Return the API; raises `SettingsError` if members could not be known.

    It connects to nothing before a request or its lifespan asks it to.
    """
    state = Health(beat_s_max=hung_s(settings))
    keys = Jwks(settings, state) if settings.jwks_url else StaticKey(settings)
    limiter = RateLimiter(settings.requests_per_s_max, settings.requests_burst_max)
    checks = (known_parameters, one_line_each, scope_granted)
    databases = databases_of(settings, state)
    deps, doorbell = _reservations(settings, databases.reservations)
    rooms = databases.rooms
    room_deps = RoomDependencies(rooms.writing, rooms.reading, settings.page_size_max)
    uploads = ActiveUploads()
    v1 = Router(
        "/v1",
        guards=[members_only(Tokens(keys, settings), limiter, *checks)],
        route_handlers=[
            reservation_routes(deps),
            room_routes(room_deps),
            inventory_routes(rooms.writing, uploads, settings.bulk_bytes_max),
            operation_routes(deps.reading),
        ],
        security=[{"bearer": []}],
    )
    url = url_in_role(settings, settings.reservations_database_url, ROLE)
    tasks = (
        keys.keep,
        partial(health.beat, state),
        deps.topics.load,
        deps.watchers.answer,
        partial(listening.poll, deps.watchers),
        partial(listening.listen, deps.watchers, url),
    )
    app = Litestar(
        [v1, problem_routes(), health.health_routes(state)],
        lifespan=[_running(databases, deps, doorbell, tasks)],
        exception_handlers={Exception: errors.respond},
        request_max_body_size=settings.body_bytes_max,
        before_send=[name_all_methods],
        openapi_config=openapi_config(settings.page_size_max),
        logging_config=None,  # innbox_process.logs has seen to it
        debug=False,
    )
    app.state.watchers, app.state.uploads = deps.watchers, uploads
    known = for_allowed_hosts(app.asgi_handler, settings.allowed_hosts)
    app.asgi_handler = observed(known, is_production=settings.environment == "production")
    return app


def _reservations(settings: Settings, database: Database) -> tuple[Dependencies, Doorbell]:
    """Return what the routes of reservations work with, and the doorbell that their threads ring."""
    engine, reading = database.writing, database.reading
    thread_doorbell = install_doorbell(
        engine, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms
    )
    pool = PipelinePool(
        engine,
        database.traffic,
        database.commits.check,
        size=settings.pool_size,
        timeout_s=settings.pool_timeout_s,
        within_s=answer_s_max(settings),
    )
    reads = PipelinePool(
        reading,
        database.traffic,
        size=_READS_AT_ONCE,
        timeout_s=settings.pool_timeout_s,
        within_s=answer_s_max(settings),
    )
    deps = Dependencies(
        engine,
        reading,
        pool,
        reads,
        reserve_sql(append_within),
        TopicLimits(reading),
        AsyncDoorbell(
            pool, thread_doorbell, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms
        ),
        ReservationWatchers(reads),
        Doorbell(
            reading, SETTLED_CHANNEL, interval_ms=settings.doorbell_ms, gather_ms=settings.gather_ms
        ),
        Streams(settings.streams_max, settings.streams_per_member_max),
        settings,
    )
    return deps, thread_doorbell


def _running(
    databases: Databases, deps: Dependencies, doorbell: Doorbell, tasks: Iterable[Task]
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return the lifespan: probes and tasks run for as long as the API does, and all ends in order."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        # More threads than connections: a request that gets no connection within the pool's timeout is
        # answered 503, and does not wait for a thread without a bound. Two pools, to write and to read.
        threads = ThreadPoolExecutor(2 * 2 * deps.settings.pool_size, thread_name_prefix="api")
        loop = asyncio.get_running_loop()
        loop.set_default_executor(threads)
        running = [asyncio.create_task(task()) for task in tasks]
        async with AsyncExitStack() as stack:  # the last one in is the first one out
            stack.enter_context(databases.running())
            stack.callback(doorbell.close)
            stack.callback(deps.changes.close)
            # A thread goes on after its request is gone: it rings, and gives its connection back.
            # If it never ends, `stop_on_signals` ends the process.
            stack.push_async_callback(loop.shutdown_default_executor)
            stack.callback(deps.pool.close)
            stack.callback(deps.reads.close)
            stack.callback(deps.doorbell.close)
            yield
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    return lifespan
