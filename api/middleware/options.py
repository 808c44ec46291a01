"""OPTIONS: every method of an address. Litestar names those of the handler that came first alone."""

from functools import lru_cache

from litestar import Litestar
from litestar.datastructures import MutableScopeHeaders
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope


async def name_all_methods(message: Message, scope: Scope) -> None:
    if message["type"] == "http.response.start" and scope.get("method") == "OPTIONS":
        methods = _methods(scope["litestar_app"]).get(str(scope.get("path_template")))
        if methods is not None:
            MutableScopeHeaders.from_message(message)["Allow"] = methods


@lru_cache(maxsize=1)  # a process has one application
def _methods(app: Litestar) -> dict[str, str]:
    return {
        route.path_format: ", ".join(sorted(route.route_handler_map))
        for route in app.routes
        if isinstance(route, HTTPRoute)
    }
