"""The trace that a request belongs to, as W3C writes it.

A valid `traceparent` of the caller is passed on as it is, into the log, the outbox and the response; the
API records no spans of its own, so it must not put itself between. Without a valid one a new trace
begins here.
"""

from litestar.types import Scope

from runtime.traces import begun, valid


def take_trace(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"traceparent"]
    # Two of them contradict each other: the standard says to use neither.
    continued = valid(given[0].decode("latin-1")) if len(given) == 1 else None
    scope["state"]["traceparent"] = traceparent = continued or begun()
    return traceparent


def traceparent(scope: Scope) -> str:
    return str(scope["state"]["traceparent"])
