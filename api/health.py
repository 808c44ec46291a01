"""/healthz and /metrics, for the platform; what is answered there is the same for all processes.

Ready means that the reservations' database answers, has the schema and the topics, and confirms commits.
Kafka is never asked: what is accepted while it is away is published when it is back. Nor does a separate
database of the rooms count: their routes answer 503, and reservations go on.
"""

import asyncio
from typing import Any

from litestar import MediaType, Request, Response, Router, get
from litestar.di import NamedDependency, Provide

from innbox_process.health import Health, answer

BEAT_S = 1.0


def health_routes(health: Health) -> Router:
    return Router(
        "/",
        route_handlers=[probe, metrics],
        dependencies={"health": Provide(lambda: health, sync_to_thread=False)},
        include_in_schema=False,
    )


@get(["/healthz/live", "/healthz/ready"], sync_to_thread=False)
def probe(request: Request[Any, Any, Any], health: NamedDependency[Health]) -> Response[bytes]:
    return _response(health, request.scope["path_template"])


@get("/metrics", sync_to_thread=True)
def metrics(health: NamedDependency[Health]) -> Response[bytes]:
    return _response(health, "/metrics")


async def beat(health: Health) -> None:
    """Record that the event loop runs, until cancelled: it never waits for a dependency."""
    while True:
        health.beat()
        await asyncio.sleep(BEAT_S)


def _response(health: Health, path: str) -> Response[bytes]:
    status, content_type, body = answer(health, path)
    return Response(
        body, status_code=status, media_type=MediaType.TEXT, headers={"Content-Type": content_type}
    )
