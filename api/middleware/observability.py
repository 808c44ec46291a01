"""Every request has a trace and is counted, and every response says what protects it.

So does a request that no route takes, because this goes around the router. The log names the trace, and
so does the response, in its `traceparent` header.

No answer may be run, framed, sniffed or cached; a route that allows its answer to be cached says so
itself. In production an answer over https asks for https from then on. RFC 6797 allows that over https
only, so behind a proxy that ends TLS it needs TRUSTED_PROXIES.
"""

from time import perf_counter

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Histogram
from structlog.contextvars import bound_contextvars

from api.requests.trace import take_trace
from runtime.traces import trace_id

SECONDS = Histogram(
    "innbox_http_request_seconds",
    "From the request's head to its response's end.",
    ["method", "route", "status"],
)

# A label for each method that a stranger can think of would be without bound.
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})
_PROTECTION = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def observed(application: ASGIApp, *, is_production: bool) -> ASGIApp:
    """Put this around the router, so that it sees its 404 and 405."""

    async def observe(scope: Scope, receive: Receive, send: Send) -> None:
        traceparent = take_trace(scope)
        begun_at = perf_counter()
        status = 500  # unless a response says otherwise

        async def traced_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], *_PROTECTION]
                if all(name != b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                if is_production and scope["scheme"] == "https":
                    headers.append((b"strict-transport-security", b"max-age=31536000"))
                message["headers"] = [*headers, (b"traceparent", traceparent.encode())]
            await send(message)

        with bound_contextvars(trace_id=trace_id(traceparent)):
            try:
                await application(scope, receive, traced_send)
            finally:
                method = scope.get("method", "")
                method = method if method in _METHODS else "other"
                counted = SECONDS.labels(method, scope.get("path_template") or "none", str(status))
                counted.observe(perf_counter() - begun_at)

    return observe
