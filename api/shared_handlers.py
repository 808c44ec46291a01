"""Guards get the route's own handler, and not a copy of it.

Litestar makes a copy for each guard of each request, slot by slot, which is a tenth of what a request
costs here; and who remembers something of a handler would not find it again. Our guards only read it.
"""

from typing import TypeVar

from litestar.handlers import base

_Handler = TypeVar("_Handler")


def share() -> None:
    """Have guards share the handlers, in this process."""
    # The module copies nothing else; `test_api_writing` sees it if a new version does.
    vars(base)["copy"] = _itself


def _itself(handler: _Handler) -> _Handler:
    return handler
