"""Requests are answered only if their Host is in ALLOWED_HOSTS.

    inn.example     that name           *.inn.example   any name below it           *   any host

Probes of the platform know addresses only, and may ask for health and metrics by address.
"""

from collections.abc import Sequence
from typing import Any

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from api.middleware import errors
from api.problems import ProblemError

_PROBED = ("/healthz/", "/metrics")


def for_allowed_hosts(application: ASGIApp, allowed: Sequence[str]) -> ASGIApp:
    """Answer requests for other hosts, and have the application answer the rest."""
    if "*" in allowed:
        return application
    lowered = [name.lower() for name in allowed]
    names = frozenset(name for name in lowered if not name.startswith("*."))
    endings = tuple(name.removeprefix("*") for name in lowered if name.startswith("*."))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        host = _host(scope)
        known = host in names or host.endswith(endings)
        if known or scope["path"].startswith(_PROBED):
            await application(scope, receive, send)
            return
        unknown = ProblemError("BAD_REQUEST", "Host is not in ALLOWED_HOSTS")
        request = Request[Any, Any, Any](scope)
        response = errors.respond(request, unknown).to_asgi_response(None, request)
        await response(scope, receive, send)

    return answer


def _host(scope: Scope) -> str:
    """Read the one Host header, without its port; empty if there is none, or two that may differ."""
    given = [value for name, value in scope["headers"] if name == b"host"]
    if len(given) != 1:
        return ""
    host = given[0].decode("latin-1").lower()
    address, bracket, _ = host.partition("]")
    return address + bracket if bracket else host.partition(":")[0].removesuffix(".")
