"""What every response says to browsers and caches, also one that no route made.

Nothing of it may be run, framed, guessed at or kept; a route that lets its answer be kept says so itself.
Who came by https in production is not to come without it again. RFC 6797 has this said over https alone,
so behind a proxy that ends TLS it takes TRUSTED_PROXIES.
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
