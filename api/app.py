"""The API put together: what each part is given is said here and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing

from litestar import Litestar, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from api import auth, health, problems, waiting
from api.observe import Observed
from api.reservations import Desk, reservation_routes
from api.rooms import room_routes
from api.waiting import Waiters
from outbox import install_doorbell
from runtime.database import READ_ONLY, pooled_engine
from runtime.health import Health
from runtime.settings import Settings


def create_app(settings: Settings) -> Litestar:
    """Return the API; raises `SettingsError` if members could not be known.

    It connects to nothing before a request or its lifespan asks it to.
    """
    guard = auth.authenticated(settings)
    reservations, rooms = _engines(settings)
    # A read alone needs no BEGIN and no ROLLBACK around it: two round trips less.
    reading = reservations.execution_options(isolation_level="AUTOCOMMIT")
    waiters = Waiters(reading)
    state = Health(parts=(health.DATABASE,))
    desk = Desk(
        reservations,
        reading,
        waiters,
        nights_max=settings.nights_per_stay_max,
        days_max=settings.days_in_advance_max,
        page_size_max=settings.page_size_max,
        wait_s_max=settings.wait_s_max,
    )
    members_only = Router(
        "/v1",
        guards=[guard],
        route_handlers=[reservation_routes(desk), room_routes(rooms)],
        security=[{"bearer": []}],
    )
    app = Litestar(
        [members_only, health.health_routes(state)],
        lifespan=[_alive(settings, reservations, rooms, waiters, state)],
        exception_handlers={Exception: problems.respond},
        request_max_body_size=settings.body_bytes_max,
        openapi_config=_openapi(),
        logging_config=None,  # runtime.logs has seen to it
        debug=False,
    )
    app.state.waiters = waiters
    app.asgi_handler = Observed(app.asgi_handler)
    return app


def _engines(settings: Settings) -> tuple[Engine, Engine]:
    """The two contexts' engines: one and the same where they share a database."""
    reservations = _engine(settings, settings.reservations_database_url, "api")
    if settings.rooms_database_url == settings.reservations_database_url:
        return reservations, reservations
    return reservations, _engine(settings, settings.rooms_database_url, "api-rooms")


def _engine(settings: Settings, url: str, name: str) -> Engine:
    engine = pooled_engine(settings, url, name)

    # Another server has taken over: connections to this one would be of no use for ever.
    @event.listens_for(engine, "handle_error")
    def connect_anew(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True

    return engine


def _alive(
    settings: Settings, reservations: Engine, rooms: Engine, waiters: Waiters, state: Health
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        # More threads than connections: who gets none within the pool's timeout hears 503, and does
        # not queue unheard for a thread.
        threads = ThreadPoolExecutor(2 * settings.pool_size, thread_name_prefix="api")
        asyncio.get_running_loop().set_default_executor(threads)
        tasks = [
            asyncio.create_task(health.watch(state, reservations)),
            asyncio.create_task(waiting.poll(waiters)),
            asyncio.create_task(waiting.listen(waiters, settings.reservations_database_url)),
        ]
        with closing(install_doorbell(reservations, interval_ms=settings.doorbell_ms)):
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        reservations.dispose()
        rooms.dispose()

    return lifespan


def _openapi() -> OpenAPIConfig:
    bearer = SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")
    return OpenAPIConfig(
        title="innbox",
        version="1",
        description="Hotel reservations that are not lost. Errors are RFC 9457 problems.",
        components=Components(security_schemes={"bearer": bearer}),
        path="/schema",
        # JSON alone: a page would load its scripts from a stranger's server.
        render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        use_handler_docstrings=True,
    )
