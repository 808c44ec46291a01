"""Header fields on several lines: RFC 9110 has lists joined by commas, and everything else given once.

Litestar would take one of the lines and pass over the others.
"""

from collections.abc import Sequence
from typing import Final

from litestar.handlers import BaseRouteHandler

from api.identity.auth import AnyConnection
from api.problems import InvalidHeader

_LISTS: Final = frozenset({b"if-match", b"if-none-match", b"prefer"})
_ONCE: Final = {b"idempotency-key": "Idempotency-Key", b"last-event-id": "Last-Event-ID"}

Headers = Sequence[tuple[bytes, bytes]]


def one_line_each(connection: AnyConnection, _: BaseRouteHandler) -> None:
    """Join the lines of a list, and raise `InvalidHeader` for several lines of what is given once."""
    headers = list(connection.scope["headers"])
    if len({name for name, _ in headers}) < len(headers):
        connection.scope["headers"] = _joined(headers)


def _joined(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Raises `InvalidHeader`."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    for name, written in _ONCE.items():
        if len(found.get(name, ())) > 1:
            raise InvalidHeader(written, "it is given more than once")
    others = [(name, value) for name, value in headers if name not in _LISTS]
    return [*others, *((name, b", ".join(found[name])) for name in _LISTS & found.keys())]
