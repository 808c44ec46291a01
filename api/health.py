"""/healthz and /metrics, for the platform.

Ready means that the reservations' database answers. Kafka is never asked: what is accepted while it is
away is published when it is back. Nor does a database of the rooms' own count: their routes answer 503,
and reservations go on.
"""

import asyncio

import structlog
from litestar import MediaType, Response, Router, get
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency, Provide
from sqlalchemy import Engine, exc, text

from runtime.errors import first_line
from runtime.health import Health, answer

WATCH_S = 1.0
DATABASE = "database"

_ASK = text("SELECT 1")
_log = structlog.get_logger(__name__)


def health_routes(health: Health) -> Router:
    return Router(
        "/",
        route_handlers=[live, ready, metrics],
        dependencies={"health": Provide(lambda: health, sync_to_thread=False)},
        include_in_schema=False,
    )


@get("/healthz/live", sync_to_thread=False)
def live(health: NamedDependency[Health]) -> Response[bytes]:
    return _response(health, "/healthz/live")


@get("/healthz/ready", sync_to_thread=False)
def ready(health: NamedDependency[Health]) -> Response[bytes]:
    return _response(health, "/healthz/ready")


@get("/metrics", sync_to_thread=True)
def metrics(health: NamedDependency[Health]) -> Response[bytes]:
    return _response(health, "/metrics")


async def watch(health: Health, engine: Engine) -> None:
    """Ask the database every second, until cancelled, so that probes cost nothing."""
    while True:
        health.beat()
        await sync_to_thread(_look, health, engine)
        await asyncio.sleep(WATCH_S)


def _look(health: Health, engine: Engine) -> None:
    try:
        with engine.connect() as connection:
            connection.execute(_ASK)
    except exc.TimeoutError:
        return  # every connection is busy: overload, about which another process is no better
    except exc.SQLAlchemyError as error:  # whatever it is, the next look may find it over
        if health.unwell(DATABASE, "away"):
            _log.warning("the database is away", error=first_line(error))
    else:
        health.well(DATABASE)


def _response(health: Health, path: str) -> Response[bytes]:
    status, content_type, body = answer(health, path)
    return Response(
        body, status_code=status, media_type=MediaType.TEXT, headers={"Content-Type": content_type}
    )
