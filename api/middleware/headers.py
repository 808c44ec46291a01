"""What every response says to browsers and caches, also one that no route made.

No answer may be run, framed, sniffed or cached; a route that allows its answer to be cached says so
itself. In production an answer over https asks for https from then on. RFC 6797 allows that over https
only, so behind a proxy that ends TLS it needs TRUSTED_PROXIES.
"""

from collections.abc import Iterable

from litestar.types import Scope

Header = tuple[bytes, bytes]

CACHE_CONTROL = b"cache-control"
ALWAYS: tuple[Header, ...] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
NO_STORE: Header = (CACHE_CONTROL, b"no-store")
HTTPS_ONLY: Header = (b"strict-transport-security", b"max-age=31536000")


def protection(scope: Scope, headers: Iterable[Header], *, is_production: bool) -> list[Header]:
    """Return what is to be sent beside these headers."""
    added = list(ALWAYS)
    if all(name != CACHE_CONTROL for name, _ in headers):
        added.append(NO_STORE)
    if is_production and scope["scheme"] == "https":
        added.append(HTTPS_ONLY)
    return added
